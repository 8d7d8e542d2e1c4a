//! HTTPS on a real systemd: a socket unit of its own, keys that only the service's group can read, and certificates that are
//! renewed: in the way of certbot, whose files and whose call of the hook are laid out here, and by certbot itself, which
//! has them issued by an authority on this machine.

use std::{
    env, fs,
    net::TcpStream,
    process::{Command, Stdio},
};

use tests::{
    Talking,
    certificates::Certificate,
    lab::{DEADLINE, Lab, Said, Service, UNIT},
    skip::skip,
};

const HOOK: &str = "/usr/lib/reborn/certbot-deploy-hook";
const SETTINGS: [&str; 3] = [
    "PROBATION=0s",
    "TLS_CERTIFICATE=/etc/letsencrypt/live/site/fullchain.pem",
    "TLS_KEY=/etc/letsencrypt/live/site/privkey.pem",
];

/// Whether there is a client; skips if not.
fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        skip("openssl is not installed");
    }
    found
}

/// What certbot does to its files when it obtains a certificate, the `number`th for this site: they are numbered, links
/// lead to the newest, and the key has the group and the mode of the one before.
fn issue(lab: &Lab, number: u32, certificate: &Certificate) {
    let archive = "/etc/letsencrypt/archive/site";
    lab.write(format!("{archive}/fullchain{number}.pem"), certificate.pem());
    lab.write(format!("{archive}/privkey{number}.pem"), certificate.key_pem());
    let before = number - 1;
    let mode = if before == 0 {
        "chmod 600 privkey1.pem; mkdir -p ../../live/site; chmod 700 .. ../../live".to_owned()
    } else {
        format!(
            "chown --reference privkey{before}.pem privkey{number}.pem; chmod --reference privkey{before}.pem privkey{number}.pem"
        )
    };
    lab.sh(&format!("cd {archive}; {mode}"));
    for name in ["fullchain", "privkey"] {
        let (from, to) =
            (format!("../../archive/site/{name}{number}.pem"), format!("/etc/letsencrypt/live/site/{name}.pem"));
        lab.sh(&format!("ln -sfn {from} {to}"));
    }
}

/// Calls the hook as certbot does.
fn hook(lab: &Lab) -> Said {
    lab.exec(["env", "RENEWED_LINEAGE=/etc/letsencrypt/live/site", "RENEWED_DOMAINS=localhost", HOOK])
}

fn install_hook(lab: &Lab) {
    lab.sh("mkdir -p /usr/lib/reborn");
    lab.place(include_str!("../../deploy/certbot/deploy-hook"), HOOK);
}

fn openssl(flags: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", "127.0.0.1:443", "-servername", "localhost"]).args(flags);
    command.stderr(Stdio::null());
    command
}

/// Whether a new client is shown this certificate, in PEM.
fn is_shown(lab: &Lab, pem: &str) -> bool {
    let output = lab.inside(|| openssl(&[]).stdin(Stdio::null()).output().expect("openssl starts"));
    let words = |text: &str| text.split_whitespace().collect::<String>();
    words(&String::from_utf8_lossy(&output.stdout)).contains(&words(pem))
}

/// Asks on a connection that stays open, and gives the generation that answers.
#[track_caller]
fn generation(client: &mut Talking) -> String {
    for line in ["GET /fast HTTP/1.1", "Host: localhost", ""] {
        client.say(line);
    }
    client.hears("x-generation: ")
}

#[test]
fn a_renewed_certificate_is_used_when_its_hook_has_run_and_connections_go_on_as_they_are() {
    if !has_openssl() {
        return;
    }
    let Some(service) = Service::install(&SETTINGS) else { return };
    let lab = &service.lab;
    install_hook(lab);
    let [first, second] = [(); 2].map(|()| Certificate::new(&["localhost"]));
    issue(lab, 1, &first);
    let said = hook(lab);
    assert!(said.status.success(), "there is nothing to reload yet: {said:#?}");
    lab.systemctl(["start", "reborn-https.socket"]);
    lab.systemctl(["start", UNIT]);
    let mut client = lab.inside(|| Talking::start(&mut openssl(&["-quiet", "-crlf"])));
    assert_eq!(generation(&mut client), "x-generation: 1");
    assert!(is_shown(lab, &first.pem()), "{}", lab.state());

    let main = service.main_pid();
    issue(lab, 2, &second);
    let said = hook(lab);
    assert!(said.status.success(), "{said:#?}\n{}", lab.state());
    assert_ne!(service.main_pid(), main, "it was a reload");
    assert!(is_shown(lab, &second.pem()), "{}", lab.state());
    assert_eq!(generation(&mut client), "x-generation: 2", "the same connection");
    let modes = "stat --dereference --format '%a %G' /etc/letsencrypt/live/site/privkey.pem /etc/letsencrypt/live";
    assert_eq!(lab.sh(modes), "640 reborn-tls\n710 reborn-tls", "nobody else can read the key");

    // What certbot leaves where its disk is full: the new certificate with the old key.
    issue(lab, 3, &Certificate::new(&["localhost"]));
    lab.sh("ln -sfn ../../archive/site/privkey2.pem /etc/letsencrypt/live/site/privkey.pem");
    let said = hook(lab);
    assert!(!said.status.success(), "{said:#?}");
    assert!(service.status().contains("it is the key of another certificate"), "{}", service.status());
    assert!(is_shown(lab, &second.pem()), "the one that it had");
    assert_eq!(generation(&mut client), "x-generation: 2");
}

#[test]
fn a_key_that_the_services_group_cannot_read_is_told_with_what_to_do() {
    let Some(service) = Service::install(&SETTINGS) else { return };
    let lab = &service.lab;
    issue(lab, 1, &Certificate::new(&["localhost"]));
    assert!(!lab.exec(["systemctl", "start", UNIT]).status.success());
    let journal = lab.journal(UNIT);
    assert!(journal.contains("/etc/letsencrypt/live/site/") && journal.contains("Permission denied"), "{journal}");
}

#[test]
fn a_socket_for_https_without_a_certificate_is_refused_and_disabling_it_is_enough() {
    let Some(service) = Service::install(&[]) else { return };
    let lab = &service.lab;
    lab.systemctl(["enable", "reborn-https.socket"]);
    assert!(!lab.exec(["systemctl", "start", UNIT]).status.success());
    let journal = lab.journal(UNIT);
    assert!(
        journal.contains("the listener \"https\" speaks TLS, as its name says, and there is no certificate"),
        "{journal}"
    );
    lab.sh("systemctl disable --now reborn-https.socket");
    lab.systemctl(["start", UNIT]);
}

#[test]
fn https_comes_to_a_service_that_runs_with_its_next_restart() {
    if !has_openssl() {
        return;
    }
    let Some(service) = Service::start(&["TLS_SELF_SIGNED=true"]) else { return };
    let lab = &service.lab;
    lab.sh("systemctl enable reborn-https.socket");
    let load = service.mixed_load();
    lab.sh("systemctl restart reborn.service");
    let main = service.main_pid();
    assert!(load.wait_for_pid(main, DEADLINE).is_some(), "{}", lab.state());
    let mut client = lab.inside(|| Talking::start(&mut openssl(&["-quiet", "-crlf"])));
    assert_eq!(generation(&mut client), "x-generation: 1");
    let status = lab.sh("reborn status");
    assert!(status.lines().any(|line| line.starts_with("https ") && line.contains("[::]:443")), "{status}");
    service.reload_well();
    assert_eq!(generation(&mut client), "x-generation: 2");
    drop(load.stop());
    // Stopped, it is started by the next client, as by one of plain HTTP.
    lab.sh("systemctl stop reborn.service");
    let mut client = lab.inside(|| Talking::start(&mut openssl(&["-quiet", "-crlf"])));
    assert_eq!(generation(&mut client), "x-generation: 1");
}

#[test]
fn files_that_a_client_of_acme_writes_over_keep_their_group_and_are_used_after_a_reload() {
    if !has_openssl() {
        return;
    }
    let settings = ["TLS_CERTIFICATE=/etc/reborn/tls/example.org.pem", "TLS_KEY=/etc/reborn/tls/example.org.key"];
    let Some(service) = Service::install(&[settings[0], settings[1], "PROBATION=0s"]) else { return };
    let lab = &service.lab;
    lab.sh("install -d -m 0750 -g reborn-tls /etc/reborn/tls");
    lab.sh("install -m 0640 -g reborn-tls /dev/null /etc/reborn/tls/example.org.key");
    // As acme.sh does it: what is there is written over, and a certificate that is not is made as the shell makes it.
    let renew = || {
        let certificate = Certificate::new(&["localhost"]);
        lab.write("/etc/reborn/tls/example.org.pem", certificate.pem());
        lab.write("/etc/reborn/tls/example.org.key", certificate.key_pem());
        certificate
    };
    let first = renew();
    lab.systemctl(["start", "reborn-https.socket"]);
    lab.systemctl(["start", UNIT]);
    assert!(is_shown(lab, &first.pem()), "{}", lab.state());
    let second = renew();
    lab.sh("systemctl reload reborn.service");
    assert!(is_shown(lab, &second.pem()), "{}", lab.state());
    assert_eq!(lab.sh("stat --format '%a %G' /etc/reborn/tls/example.org.key"), "640 reborn-tls");
}

/// An authority for certificates (Pebble) in the lab, which takes `example.org` for the lab itself.
fn start_authority(lab: &Lab) {
    let own = Certificate::new(&["localhost"]);
    lab.write("/opt/authority/own.pem", own.pem());
    lab.write("/opt/authority/own.key", own.key_pem());
    let config = serde_json::json!({ "pebble": {
        "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/opt/authority/own.pem", "privateKey": "/opt/authority/own.key",
        "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false,
    }});
    lab.write("/opt/authority/config.json", config.to_string());
    lab.write("/etc/hosts", "127.0.0.1 localhost example.org\n");
    let start = "ExecStart=/usr/bin/pebble -config /opt/authority/config.json";
    let at_once = "Environment=PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 PEBBLE_AUTHZREUSE=0";
    lab.unit("authority.service", &format!("[Service]\n{start}\n{at_once}\n"));
    lab.systemctl(["start", "authority.service"]);
    let address = "127.0.0.1:14000";
    lab.wait_until("the authority answers", DEADLINE, || lab.inside(|| TcpStream::connect(address).is_ok()));
}

#[test]
fn certbot_has_a_certificate_issued_and_renewed_and_no_connection_notices() {
    if env::var_os("REBORN_LAB_ROOT").is_some() {
        eprintln!("another system's root has no certbot; the machine's own runs this test");
        return;
    }
    let is_there =
        |program: &str| Command::new("which").arg(program).output().is_ok_and(|output| output.status.success());
    if !["certbot", "pebble", "openssl"].into_iter().all(is_there) {
        return skip("certbot, pebble and openssl (Debian's packages of these names) are not all installed");
    }
    let Some(service) = Service::install(&["PROBATION=0s", "ROOT=/srv/www"]) else { return };
    let lab = &service.lab;
    install_hook(lab);
    lab.write("/srv/www/index.html", "the site");
    lab.systemctl(["start", UNIT]);
    start_authority(lab);
    let certbot = |command: &str| {
        let authority = "--server https://localhost:14000/dir --agree-tos --register-unsafely-without-email";
        lab.sh(&format!("REQUESTS_CA_BUNDLE=/opt/authority/own.pem {command} {authority} --non-interactive"))
    };
    certbot("certbot certonly --webroot -w /srv/www -d example.org --deploy-hook /usr/lib/reborn/certbot-deploy-hook");

    let live = "/etc/letsencrypt/live/example.org";
    let files = format!("REBORN_TLS_CERTIFICATE={live}/fullchain.pem REBORN_TLS_KEY={live}/privkey.pem");
    lab.edit(UNIT, "https", &format!("[Service]\nEnvironment=REBORN_REDIRECT_HTTPS=true {files}\n"));
    lab.sh("systemctl enable reborn-https.socket");
    lab.sh("systemctl restart reborn.service");
    let issued = || fs::read_to_string(lab.path(format!("{live}/cert.pem"))).expect("certbot has put it there");
    let first = issued();
    assert!(is_shown(lab, &first), "{}", lab.state());
    let mut client = lab.inside(|| Talking::start(&mut openssl(&["-quiet", "-crlf"])));
    assert_eq!(generation(&mut client), "x-generation: 1");

    certbot("certbot renew --force-renewal --no-random-sleep-on-renew");
    let second = issued();
    assert_ne!(first, second, "the challenge was answered, where all else is sent to HTTPS");
    assert!(is_shown(lab, &second), "{}", lab.state());
    assert_eq!(generation(&mut client), "x-generation: 2", "the same connection");
}

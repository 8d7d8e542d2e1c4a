//! The site of deploy/MIGRATING.md, which tests have nginx and reborn serve: its configurations, as the page has them, its
//! files, and what a crawler asks for.

use std::{fs, path::Path};

/// How many files the site has beside its pages.
pub const FILES: usize = 2_000;

/// What is asked for beside the files, by host.
pub const PAGES: [(&str, &str); 22] = [
    ("example.org", "/"),
    ("example.org", "/index.html"),
    ("example.org", "/docs"),
    ("example.org", "/docs?a=b"),
    ("example.org", "/docs/"),
    ("example.org", "/docs/deep%20er"),
    ("example.org", "/missing"),
    ("example.org", "/assets/missing.css"),
    ("example.org", "/docs/missing/"),
    ("example.org", "/404.html"),
    ("example.org", "/blog/2024/a%20b/c?d=e&f"),
    ("example.org", "/blog/2024/"),
    ("example.org", "/help"),
    ("example.org", "/help?a=b"),
    ("elsewhere.org", "/docs/"),
    ("app.example.org", "/"),
    ("app.example.org", "/static/app.js"),
    ("app.example.org", "/cart/7?a=b"),
    ("app.example.org", "/static"),
    ("www.example.org", "/"),
    ("www.example.org", "/a/b?c=d"),
    ("a.old.example.org", "/x/"),
];

/// The first block of this language in the page.
pub fn block(language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/MIGRATING.md");
    let page = fs::read_to_string(path).expect("the page is there");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("the page has such a block");
    rest.split_once("\n```").expect("the block has an end").0.to_owned()
}

/// Fills both roots, `srv/www` and `srv/app` below this folder. `home` makes the home page from the paths of the files,
/// which are returned: those of the first root, as clients ask for them.
pub fn fill(folder: &Path, home: impl FnOnce(&[String]) -> String) -> Vec<String> {
    let kinds =
        ["html", "css", "js", "json", "svg", "png", "jpg", "txt", "xml", "woff2", "pdf", "glb", "unheard-of", "webp"];
    let directories = ["assets", "docs", "docs/deep er", "archive/2024"];
    let write = |path: &str, text: &str| {
        let path = folder.join("srv").join(path);
        fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder is the test's own");
        fs::write(path, text).expect("the folder is the test's own");
    };
    let file = |number: usize| {
        let (kind, directory) = (kinds[number % kinds.len()], directories[number % directories.len()]);
        let name = format!("{directory}/{number} ü.{kind}");
        write(&format!("www/{name}"), &format!("{number} is {kind}\n").repeat(number % 400 + 1));
        format!("/{}", name.replace(' ', "%20").replace('ü', "%C3%BC"))
    };
    let paths: Vec<String> = (0..FILES).map(file).collect();
    for (path, text) in [
        ("www/index.html", &*home(&paths)),
        ("www/404.html", "no such page"),
        ("www/docs/index.html", "documents"),
        ("app/index.html", "<!doctype html>the application"),
        ("app/static/app.js", "run()"),
    ] {
        write(path, text);
    }
    paths
}

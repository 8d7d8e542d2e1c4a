// Java's HttpClient: fetches, uploads and asks for a range, one after another, until the file `go-on` is gone.
//
// Argument: http://HOST:PORT, or https. Prints each generation that answers. The client would silently repeat a request
// whose connection was closed, on a new one: whoever runs it counts the connections that the server accepts.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.io.ByteArrayInputStream;
import java.net.Socket;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.util.Arrays;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

public class Client {
    static HttpClient client;
    static String base;

    static void check(boolean ok, Object what) {
        if (!ok) {
            System.out.println("error: " + what);
            System.exit(1);
        }
    }

    static HttpResponse<byte[]> ask(HttpRequest.Builder request, String path) throws Exception {
        var whole = request.uri(URI.create(base + path)).timeout(Duration.ofSeconds(30)).build();
        return client.send(whole, BodyHandlers.ofByteArray());
    }

    public static void main(String[] arguments) throws Exception {
        base = arguments[0];
        var context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new Any()}, null);
        client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).sslContext(context).build();
        var upload = new byte[256_000];
        for (int at = 0; at < upload.length; at++) upload[at] = (byte) at;
        var all = ask(HttpRequest.newBuilder(), "/data.bin").body();
        check(all.length == 1_000_000, all.length);
        String seen = "";
        for (int requests = 0; ; requests += 5) {
            var gate = ask(HttpRequest.newBuilder(), "/go-on");
            if (gate.statusCode() == 404) {
                System.out.println("done: " + requests + " requests");
                return;
            }
            check(gate.statusCode() == 200, gate);
            var generation = gate.headers().firstValue("x-generation").orElse("none");
            if (!generation.equals(seen)) System.out.println("x-generation: " + generation);
            seen = generation;
            var whole = ask(HttpRequest.newBuilder(), "/data.bin");
            check(whole.statusCode() == 200 && Arrays.equals(whole.body(), all), whole);
            var part = ask(HttpRequest.newBuilder().header("Range", "bytes=1000-1999"), "/data.bin");
            check(part.statusCode() == 206 && Arrays.equals(part.body(), Arrays.copyOfRange(all, 1000, 2000)), part);
            var echo = ask(HttpRequest.newBuilder().POST(BodyPublishers.ofByteArray(upload)), "/echo");
            check(echo.statusCode() == 200 && Arrays.equals(echo.body(), upload), echo);
            // In chunks.
            var stream = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(upload));
            var chunks = ask(HttpRequest.newBuilder().POST(stream), "/echo");
            check(chunks.statusCode() == 200 && Arrays.equals(chunks.body(), upload), chunks);
        }
    }

    // Takes any certificate: they change while it is connected.
    static class Any extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }
}

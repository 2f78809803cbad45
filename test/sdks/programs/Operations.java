// SPDX-License-Identifier: MPL-2.0

import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Pattern;

/** See package sdks: every operation, with the JDK's client, which asks for HTTP/2 (Upgrade: h2c). */
public class Operations {
    private static final HttpClient HTTP = HttpClient.newHttpClient();
    private static final String PROXY = System.getenv("PROXY");
    private static final String SHOP = System.getenv("SHOP");
    private static final String ALICE = System.getenv("ALICE");

    private static String secret;

    public static void main(String[] args) throws Exception {
        secret = Files.readString(Path.of(System.getenv("CALLER_FILE"))).strip();

        String invoice = newInvoice("500");
        check(send("shop.income", "GET", list("/incoming-payments", SHOP), null).contains('"' + invoice + '"'));

        String quote = id(send("quotes", "POST", "/quotes", """
                {"walletAddress": "%s", "receiver": "%s", "method": "ilp"}""".formatted(ALICE, invoice)));
        send("quotes", "GET", local(quote), null);

        String payment = id(send("rent", "POST", "/outgoing-payments", """
                {"walletAddress": "%s", "quoteId": "%s"}""".formatted(ALICE, quote)));
        send("rent", "GET", local(payment), null);
        check(send("rent", "GET", list("/outgoing-payments", ALICE), null).contains('"' + payment + '"'));
        send("rent", "GET", "/outgoing-payment-grant", null);

        String unpaid = newInvoice("1");
        check(send("shop.income", "POST", local(unpaid) + "/complete", null).contains("\"completed\":true"));

        for (int i = 0; i < 100; i++) {
            send("shop.income", "GET", local(invoice), null);
        }
        System.out.println(invoice + " " + payment + " " + unpaid);
    }

    private static String newInvoice(String value) throws Exception {
        return id(send("shop.income", "POST", "/incoming-payments", """
                {"walletAddress": "%s", "incomingAmount": {"value": "%s", "assetCode": "USD", "assetScale": 2},
                 "metadata": {"for": "Brötchen"}}""".formatted(SHOP, value)));
    }

    private static String send(String grant, String method, String path, String body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(PROXY + path))
                .header("Authorization", "GNAP " + grant + "." + secret)
                .method(method, body == null ? BodyPublishers.noBody() : BodyPublishers.ofString(body));
        if (body != null) {
            request.header("Content-Type", "application/json");
        }
        var answer = HTTP.send(request.build(), BodyHandlers.ofString());
        if (answer.statusCode() >= 300) {
            throw new IllegalStateException(method + " " + path + ": " + answer.statusCode() + " " + answer.body());
        }
        return answer.body();
    }

    private static String list(String collection, String wallet) {
        return collection + "?first=100&wallet-address=" + URLEncoder.encode(wallet, StandardCharsets.UTF_8);
    }

    private static String local(String id) {
        return URI.create(id).getRawPath();
    }

    private static String id(String json) {
        var match = Pattern.compile("\"id\":\"([^\"]+)\"").matcher(json);
        check(match.find());
        return match.group(1);
    }

    private static void check(boolean holds) {
        if (!holds) {
            throw new IllegalStateException("not as expected");
        }
    }
}

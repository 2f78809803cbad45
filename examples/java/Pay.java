// SPDX-License-Identifier: MPL-2.0

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Pattern;

/**
 * Gets paid, and pays, through open-payments-proxy. This program has no key and no access token: the
 * proxy has both from Vault. It needs nothing but Java 17 or later.
 *
 * <pre>PROXY=http://127.0.0.1:9700 CALLER_FILE=/run/op/caller java Pay.java INCOME SHOP AMOUNT [PAYER OWNER]</pre>
 *
 * INCOME is the grant to get paid with, and SHOP the wallet address that gets paid; PAYER and OWNER,
 * if given, are the grant and the wallet address to pay with. AMOUNT is in the smallest unit of the
 * wallet's asset: 1250 means 12.50 USD. CALLER_FILE holds the proxy's caller secret.
 */
public class Pay {
    private static final HttpClient HTTP = HttpClient.newHttpClient();
    private static final String PROXY = System.getenv("PROXY");
    private static String secret;
    private static String amount;

    public static void main(String[] args) throws Exception {
        if (args.length != 3 && args.length != 5 || !args[2].matches("[1-9][0-9]*")) {
            System.err.println("usage: PROXY=… CALLER_FILE=… java Pay.java INCOME SHOP AMOUNT [PAYER OWNER]");
            System.exit(2);
        }
        secret = Files.readString(Path.of(System.getenv("CALLER_FILE"))).strip();
        String income = args[0];
        String shop = args[1];
        amount = args[2];

        String created = send(income, "POST", "/incoming-payments", """
                {"walletAddress": "%s", "incomingAmount": %s}""".formatted(shop, money(shop)));
        String invoice = member("id", created);
        System.out.println("incoming payment created: " + invoice);
        if (args.length == 3) {
            return;
        }
        String payer = args[3];
        String owner = args[4];
        String payment = send(payer, "POST", "/outgoing-payments", """
                {"walletAddress": "%s", "incomingPayment": "%s", "debitAmount": %s}"""
                .formatted(owner, invoice, money(owner)));
        System.out.println("outgoing payment created: " + member("id", payment));

        String paid = send(income, "GET", local(invoice), null);
        System.out.println("received: " + member("value", paid.substring(paid.indexOf("\"receivedAmount\""))));
    }

    /**
     * Sends a request, and returns the answer. A payment whose answer did not arrive (504) may have
     * been made: never repeat it.
     */
    private static String send(String grant, String method, String path, String body)
            throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(PROXY + path))
                .header("Authorization", "GNAP " + grant + "." + secret)
                .header("Content-Type", "application/json")
                .method(method, body == null ? BodyPublishers.noBody() : BodyPublishers.ofString(body))
                .build();
        return exchange(request);
    }

    private static String exchange(HttpRequest request) throws IOException, InterruptedException {
        var answer = HTTP.send(request, BodyHandlers.ofString());
        if (answer.statusCode() >= 300) {
            System.err.println(request.method() + " " + request.uri().getPath() + ": " + answer.statusCode() + " "
                    + answer.body());
            System.exit(1);
        }
        return answer.body();
    }

    /** Returns the path of an id, with which the proxy can be asked for it. */
    private static String local(String id) {
        return URI.create(id).getRawPath();
    }

    /** Returns the amount in the asset of a wallet, as its public document tells it. */
    private static String money(String wallet) throws IOException, InterruptedException {
        String document = exchange(HttpRequest.newBuilder(URI.create(wallet)).build());
        return """
                {"value": "%s", "assetCode": "%s", "assetScale": %s}"""
                .formatted(amount, member("assetCode", document), member("assetScale", document));
    }

    /**
     * Returns the first string or number of that name in a JSON text. That suffices for the answers
     * here; a larger program has a JSON library.
     */
    private static String member(String name, String json) {
        var match = Pattern.compile("\"" + name + "\"\\s*:\\s*\"?([^\",}]+)").matcher(json);
        if (!match.find()) {
            throw new IllegalStateException("there is no " + name + " in " + json);
        }
        return match.group(1);
    }
}

import com.rabbitmq.client.*;
import com.rabbitmq.client.impl.LongStringHelper;
import java.util.*;
import java.util.concurrent.*;

/** The Java client: the round of a user. */
public final class Round {
    private static boolean bad;

    private static void same(String what, Object expected, Object got) {
        if (Objects.equals(expected, got)) {
            System.out.println("ok - java: " + what);
        } else {
            bad = true;
            System.out.println("not ok - java: " + what + ": expected " + expected + ", got " + got);
        }
    }

    private interface Act {
        void run() throws Exception;
    }

    private static void refused(String what, int code, String text, Act act) {
        try {
            act.run();
            same(what, text, "no error");
        } catch (Exception e) {
            Throwable cause = e;
            while (cause != null && !(cause instanceof ShutdownSignalException)) cause = cause.getCause();
            if (cause == null) {
                same(what, text, e);
                return;
            }
            AMQP.Channel.Close close = (AMQP.Channel.Close) ((ShutdownSignalException) cause).getReason();
            same(what, code + " " + text, close.getReplyCode() + " " + close.getReplyText());
        }
    }

    private static String text(Object value) {
        if (value instanceof LongString) return value.toString();
        if (value instanceof Map) {
            TreeMap<String, String> out = new TreeMap<>();
            ((Map<?, ?>) value).forEach((k, v) -> out.put(k.toString(), text(v)));
            return out.toString();
        }
        if (value instanceof List) {
            List<String> out = new ArrayList<>();
            ((List<?>) value).forEach(v -> out.add(text(v)));
            return out.toString();
        }
        if (value instanceof byte[]) return "bytes" + Arrays.toString((byte[]) value);
        return value == null ? "null" : value.getClass().getSimpleName() + ":" + value;
    }

    public static void main(String[] args) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost("127.0.0.1");
        factory.setPort(Integer.parseInt(System.getenv("AMQP_PORT")));
        factory.setNetworkRecoveryInterval(200);
        Connection connection = factory.newConnection("round");
        Channel channel = connection.createChannel();
        String queue = "clients.java";
        channel.queueDeclare(queue, true, false, false, Map.of("x-max-length", 1000));
        channel.exchangeDeclare("clients.java.x", "direct", true);
        channel.queueBind(queue, "clients.java.x", "k");

        BlockingQueue<String> returned = new LinkedBlockingQueue<>();
        channel.addReturnListener((code, reason, exchange, key, properties, body) -> returned.add(code + " " + reason + " " + key));
        channel.confirmSelect();
        Map<String, Object> headers = new HashMap<>();
        headers.put("int", 7);
        headers.put("short", (short) -5);
        headers.put("byte", (byte) -1);
        headers.put("long", 1L << 40);
        headers.put("text", LongStringHelper.asLongString("ü"));
        headers.put("yes", true);
        headers.put("none", null);
        headers.put("float", 1.5f);
        headers.put("double", 2.25);
        headers.put("bytes", new byte[] {1, 2, 3});
        headers.put("decimal", new java.math.BigDecimal("3.14"));
        headers.put("time", new Date(1_700_000_000_000L));
        headers.put("list", List.of(1, LongStringHelper.asLongString("two")));
        headers.put("nested", Map.of("k", Map.of("v", 1)));
        AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().headers(headers).contentType("text/plain").deliveryMode(2)
            .priority(3).correlationId("c").replyTo("r").expiration("60000").messageId("m").timestamp(new Date(1_700_000_000_000L)).type("t").appId("a").build();
        channel.basicPublish("clients.java.x", "k", properties, "one".getBytes());
        channel.basicPublish("clients.java.x", "k", null, new byte[300_000]);
        channel.basicPublish("clients.java.x", "none", true, null, "lost".getBytes());
        same("confirms", true, channel.waitForConfirms(20_000));
        same("a return", "312 NO_ROUTE none", returned.poll(20, TimeUnit.SECONDS));

        GetResponse got = channel.basicGet(queue, false);
        same("get", "one false 1", new String(got.getBody()) + " " + got.getEnvelope().isRedeliver() + " " + got.getMessageCount());
        same("headers of every type", text(headers), text(got.getProps().getHeaders()));
        // Text of both, headers aside: LongString and the maps inside have no equals.
        same("properties", properties.builder().headers(null).build().toString(), got.getProps().builder().headers(null).build().toString());
        channel.basicNack(got.getEnvelope().getDeliveryTag(), false, true);

        BlockingQueue<String> seen = new LinkedBlockingQueue<>();
        channel.basicQos(1);
        String tag = channel.basicConsume(queue, false, new DefaultConsumer(channel) {
            private int count;

            @Override
            public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties p, byte[] body) throws java.io.IOException {
                if (++count == 1) channel.basicReject(envelope.getDeliveryTag(), true);
                else channel.basicAck(envelope.getDeliveryTag(), false);
                seen.add(body.length + " " + envelope.isRedeliver());
            }
        });
        List<String> three = new ArrayList<>();
        for (int i = 0; i < 3; i++) three.add(seen.poll(20, TimeUnit.SECONDS));
        same("consume with prefetch 1, reject, ack", List.of("3 true", "3 true", "300000 false"), three);
        channel.basicCancel(tag);
        same("empty get", null, channel.basicGet(queue, true));

        Channel tx = connection.createChannel();
        tx.txSelect();
        tx.basicPublish("", queue, null, "undone".getBytes());
        tx.txRollback();
        tx.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, "done".getBytes());
        tx.txCommit();
        same("rollback leaves nothing, commit one", 1L, channel.messageCount(queue));

        refused("404 of a missing queue", 404, "NOT_FOUND - no queue 'clients.none' in vhost '/'",
            () -> connection.createChannel().queueDeclarePassive("clients.none"));
        refused("406 of an inequivalent declare", 406,
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'clients.java' in vhost '/': received '5' but current is '1000'",
            () -> connection.createChannel().queueDeclare(queue, true, false, false, Map.of("x-max-length", 5)));
        refused("406 of exchange type", 406,
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'clients.java.x' in vhost '/': received 'fanout' but current is 'direct'",
            () -> connection.createChannel().exchangeDeclare("clients.java.x", "fanout", true));
        refused("404 of a publish to no exchange", 404, "NOT_FOUND - no exchange 'clients.none' in vhost '/'", () -> {
            Channel other = connection.createChannel();
            other.basicPublish("clients.none", "", null, new byte[0]);
            other.queueDeclare();
        });
        ConnectionFactory wrong = factory.clone();
        wrong.setPassword("wrong");
        try {
            wrong.newConnection();
            same("a wrong password", "refused", "accepted");
        } catch (AuthenticationFailureException e) {
            same("a wrong password",
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.", e.getMessage());
        }

        BlockingQueue<String> cancelled = new LinkedBlockingQueue<>();
        String gone = channel.queueDeclare().getQueue();
        channel.basicConsume(gone, true, "watcher", new DefaultConsumer(channel) {
            @Override
            public void handleCancel(String consumer) {
                cancelled.add(consumer);
            }
        });
        Channel remover = connection.createChannel();
        remover.queueDelete(gone);
        same("a deleted queue cancels its consumer", "watcher", cancelled.poll(20, TimeUnit.SECONDS));

        // A request and its answer over amq.rabbitmq.reply-to.
        String service = remover.queueDeclare().getQueue();
        remover.basicConsume(service, true, new DefaultConsumer(remover) {
            @Override
            public void handleDelivery(String t, Envelope envelope, AMQP.BasicProperties p, byte[] body) throws java.io.IOException {
                remover.basicPublish("", p.getReplyTo(), new AMQP.BasicProperties.Builder().correlationId(p.getCorrelationId()).build(), body);
            }
        });
        same("call over direct reply-to", "ping", new RpcClient(connection.createChannel(), "", service, 20_000).stringCall("ping"));

        CountDownLatch recovered = new CountDownLatch(1);
        ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
            @Override
            public void handleRecovery(Recoverable what) {
                recovered.countDown();
            }

            @Override
            public void handleRecoveryStarted(Recoverable what) {}
        });
        new ProcessBuilder("sh", "-c", System.getenv("RESTART")).inheritIO().start().waitFor();
        same("recovers by itself", true, recovered.await(30, TimeUnit.SECONDS));
        Channel after = connection.createChannel();
        GetResponse kept = after.basicGet(queue, true);
        same("the committed message is there after a restart", "done", kept == null ? null : new String(kept.getBody()));
        after.queueDelete(queue);
        after.exchangeDelete("clients.java.x");
        connection.close();
        System.exit(bad ? 1 : 0);
    }
}

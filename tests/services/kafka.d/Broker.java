import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.Uuid;

/**
 * One broker, its own controller: made ready in a folder at first, then started there again. Writes FOLDER/address when it answers. With FOLDER/tls.pem, a key and
 * its certificate for localhost, it has a listener with TLS, too.
 */
public final class Broker {
	private static Properties settings(Path folder, int port) throws Exception {
		Path file = folder.resolve("server.properties");
		Properties p = new Properties();
		if (Files.exists(file)) {
			try (var in = Files.newInputStream(file)) {
				p.load(in);
			}
			return p;
		}
		int plain = port, sasl = port + 1, controller = port + 2, tls = port + 3;
		p.putAll(Map.of("node.id", "1", "process.roles", "broker,controller", "controller.quorum.voters", "1@127.0.0.1:" + controller,
			"controller.listener.names", "CONTROLLER", "log.dirs", folder.resolve("data").toString(), "inter.broker.listener.name", "PLAINTEXT"));
		Path key = folder.resolve("tls.pem");
		String all = "PLAINTEXT://127.0.0.1:" + plain + ",SASL_PLAINTEXT://127.0.0.1:" + sasl, users =
			"org.apache.kafka.common.security.plain.PlainLoginModule required user_reader=\"s3cr3t-of-reader\" user_admin=\"s3cr3t-of-admin\";";
		if (Files.exists(key)) {
			all += ",SASL_SSL://localhost:" + tls;
			p.put("ssl.keystore.type", "PEM");
			p.put("ssl.keystore.location", key.toString());
			p.put("listener.name.sasl_ssl.plain.sasl.jaas.config", users);
		}
		p.put("listeners", all + ",CONTROLLER://127.0.0.1:" + controller);
		p.put("advertised.listeners", all);
		p.put("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT");
		/* Without a name one may do all; `reader` may come in, and see nothing until somebody lets it. */
		p.put("sasl.enabled.mechanisms", "PLAIN");
		p.put("listener.name.sasl_plaintext.plain.sasl.jaas.config", users);
		p.put("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer");
		p.put("super.users", "User:ANONYMOUS;User:admin");
		for (String one : new String[] {"offsets.topic.replication.factor", "offsets.topic.num.partitions", "transaction.state.log.replication.factor",
			"transaction.state.log.min.isr", "transaction.state.log.num.partitions"})
			p.put(one, "1");
		/* One that was killed is let in again when its session is over. */
		p.put("broker.session.timeout.ms", "3000");
		p.put("broker.heartbeat.interval.ms", "500");
		p.put("auto.create.topics.enable", "false");
		p.put("group.initial.rebalance.delay.ms", "0");
		p.put("log.cleaner.backoff.ms", "200");
		p.put("log.cleaner.dedupe.buffer.size", "2097152");
		try (var out = Files.newOutputStream(file)) {
			p.store(out, null);
		}
		return p;
	}

	public static void main(String[] args) throws Exception {
		Path folder = Path.of(args[0]).toAbsolutePath(), ready = folder.resolve("address"), made = folder.resolve("topics.made");
		Properties p = settings(folder, Integer.parseInt(args[1]));
		if (!Files.exists(folder.resolve("data")))
			kafka.tools.StorageTool.execute(new String[] {"format", "--cluster-id", Uuid.randomUuid().toString(), "--config", folder.resolve("server.properties").toString()}, System.out);
		new Thread(() -> kafka.Kafka.main(new String[] {folder.resolve("server.properties").toString()})).start();
		String[] listeners = p.getProperty("advertised.listeners").split(",");
		String plain = listeners[0].replaceFirst(".*//", ""), sasl = listeners[1].replaceFirst(".*//", "");
		List<NewTopic> topics = new ArrayList<>();
		for (String topic : args[2].isEmpty() ? new String[0] : args[2].split(","))
			topics.add(new NewTopic(topic.split(":")[0], Integer.parseInt(topic.split(":")[1]), (short) 1));
		try (Admin admin = Admin.create(Map.of("bootstrap.servers", plain, "reconnect.backoff.max.ms", "50"))) {
			admin.describeCluster().nodes().get(60, TimeUnit.SECONDS);
			if (!Files.exists(made))
				admin.createTopics(topics).all().get(60, TimeUnit.SECONDS);
		}
		Files.writeString(folder.resolve("address.sasl"), sasl);
		if (listeners.length > 2)
			Files.writeString(folder.resolve("address.tls"), listeners[2].replaceFirst(".*//", ""));
		Files.writeString(made, args[2]);
		Path next = folder.resolve("address.next");
		Files.writeString(next, plain);
		Files.move(next, ready, StandardCopyOption.ATOMIC_MOVE);
	}
}

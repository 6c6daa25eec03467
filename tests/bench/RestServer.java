import java.util.HashMap;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/** Iceberg's own REST catalog on its JdbcCatalog: arguments are the socket of PostgreSQL and the warehouse. Ends with its standard input. */
public class RestServer {
	public static void main(String[] args) throws Exception {
		Map<String, String> config = new HashMap<>();
		config.put("uri", "jdbc:postgresql://localhost/java?user=sluice&sslmode=disable"
				+ "&socketFactory=org.newsclub.net.unix.AFUNIXSocketFactory$FactoryArg&socketFactoryArg=" + args[0]);
		config.put("warehouse", args[1]);
		config.put("jdbc.schema-version", "V1");
		JdbcCatalog catalog = new JdbcCatalog();
		catalog.setConf(new Configuration());
		catalog.initialize("java", config);
		Server server = new Server();
		ServerConnector connector = new ServerConnector(server);
		connector.setHost("127.0.0.1");
		server.addConnector(connector);
		ServletContextHandler context = new ServletContextHandler(ServletContextHandler.NO_SESSIONS);
		context.addServlet(new ServletHolder(new RESTCatalogServlet(new RESTCatalogAdapter(catalog))), "/*");
		server.setHandler(context);
		server.start();
		System.out.println("port " + connector.getLocalPort());
		System.out.flush();
		while (System.in.read() >= 0) {
		}
		server.stop();
		System.exit(0);
	}
}

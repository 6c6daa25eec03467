import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hive.metastore.HiveMetaStore;
import org.apache.hadoop.hive.metastore.IHMSHandler;
import org.apache.hadoop.hive.metastore.RetryingHMSHandler;
import org.apache.hadoop.hive.metastore.api.ThriftHiveMetastore;
import org.apache.hadoop.hive.metastore.conf.MetastoreConf;
import org.apache.thrift.server.TServer;
import org.apache.thrift.server.TThreadPoolServer;
import org.apache.thrift.transport.TServerSocket;

/**
 * Hive's metastore on 127.0.0.1 alone, which its own main cannot: it listens on all addresses. Arguments: the file for its address, a port (0: any), the database's JDBC
 * address and user, the folder of its warehouse.
 */
class Server {
	public static void main(String[] args) throws Exception {
		Path file = Path.of(args[0]), fresh = Path.of(args[0] + ".new");
		ServerSocket at = new ServerSocket();
		Configuration conf = MetastoreConf.newMetastoreConf();

		MetastoreConf.setVar(conf, MetastoreConf.ConfVars.CONNECT_URL_KEY, args[2]);
		MetastoreConf.setVar(conf, MetastoreConf.ConfVars.CONNECTION_USER_NAME, args[3]);
		MetastoreConf.setVar(conf, MetastoreConf.ConfVars.PWD, "");
		MetastoreConf.setVar(conf, MetastoreConf.ConfVars.CONNECTION_DRIVER, "org.postgresql.Driver");
		MetastoreConf.setVar(conf, MetastoreConf.ConfVars.WAREHOUSE, args[4]);
		/* Those that it has by default are in Hive's other jars. */
		MetastoreConf.setVar(conf, MetastoreConf.ConfVars.TASK_THREADS_ALWAYS, "org.apache.hadoop.hive.metastore.events.EventCleanerTask");
		MetastoreConf.setVar(conf, MetastoreConf.ConfVars.EXPRESSION_PROXY_CLASS, "org.apache.hadoop.hive.metastore.DefaultPartitionExpressionProxy");
		at.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1])));
		IHMSHandler handler = RetryingHMSHandler.getProxy(conf, new HiveMetaStore.HMSHandler("tests", conf, false), false);
		TServer server = new TThreadPoolServer(new TThreadPoolServer.Args(new TServerSocket(at)).processor(new ThriftHiveMetastore.Processor<>(handler)));
		Files.writeString(fresh, "thrift://127.0.0.1:" + at.getLocalPort());
		Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE);
		server.serve();
	}
}

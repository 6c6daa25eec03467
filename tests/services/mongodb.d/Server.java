import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/** Serves on 127.0.0.1, at the port of the second argument (0: any), and writes its address to the file of the first. */
class Server {
	public static void main(String[] args) throws Exception {
		MongoServer server = new MongoServer(new MemoryBackend());
		InetSocketAddress at = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1]));
		Path file = Path.of(args[0]), fresh = Path.of(args[0] + ".new");

		server.bind(at);
		Files.writeString(fresh, "mongodb://127.0.0.1:" + server.getLocalAddress().getPort());
		Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE);
		Thread.currentThread().join();
	}
}

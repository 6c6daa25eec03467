package sluice;

import io.delta.storage.S3SingleDriverLogStore;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.util.Iterator;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSDataOutputStreamBuilder;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

/**
 * Delta's commits on S3. Its own store looks whether a commit is there and then puts its own: of two drivers, one overwrites the
 * other's. Here S3 refuses the second (If-None-Match), and Delta looks whether the two go together.
 *
 * <p>Compiled by spark_archive.py, whose compiler knows no generics: the methods are those that are left of them.
 */
public class DeltaLogStore extends S3SingleDriverLogStore {
	private static final Object LOCK = new Object();

	public DeltaLogStore(Configuration conf) {
		super(conf);
	}

	public void write(Path path, Iterator actions, Boolean overwrite, Configuration conf) throws IOException {
		if (overwrite.booleanValue()) {
			super.write(path, actions, overwrite, conf);
			return;
		}
		ByteArrayOutputStream text = new ByteArrayOutputStream();
		while (actions.hasNext()) text.write((((String) actions.next()) + "\n").getBytes("UTF-8"));
		synchronized (LOCK) { // for a store that ignores the condition, as it was
			put(path, path.getFileSystem(conf), text.toByteArray());
		}
	}

	private static void put(Path path, FileSystem files, byte[] text) throws IOException {
		if (files.exists(path)) throw new FileAlreadyExistsException(path.toString());
		FSDataOutputStreamBuilder builder = files.createFile(path);
		builder.recursive();
		builder.must("fs.option.create.conditional.overwrite", "true");
		FSDataOutputStream out = (FSDataOutputStream) builder.build();
		try {
			out.write(text);
		} catch (IOException e) {
			out.abort(); // or what there is of it would be the commit
			throw e;
		}
		try {
			out.close();
		} catch (IOException e) {
			if (!isRefused(e)) throw e;
			throw (FileAlreadyExistsException) new FileAlreadyExistsException(path.toString()).initCause(e);
		}
	}

	private static boolean isRefused(Throwable e) {
		for (; e != null; e = e.getCause())
			if (String.valueOf(e.getMessage()).contains("Status Code: 412")) return true;
		return false;
	}
}

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

import org.apache.iceberg.PartitionData;
import org.apache.iceberg.Schema;
import org.apache.iceberg.Table;
import org.apache.iceberg.data.GenericFileWriterFactory;
import org.apache.iceberg.data.GenericRecord;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.deletes.EqualityDeleteWriter;
import org.apache.iceberg.io.OutputFileFactory;
import org.apache.iceberg.spark.Spark3Util;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructField;
import scala.collection.JavaConverters;

/**
 * A Spark that stays: one line in, one line out. In: ID, session, "conf", "sql" or "unequal", and a text in base64, divided by tabs.
 * Out: {"id": …, "types": […], "rows": […]} or {"id": …, "error": "…"}. Sessions share the JVM and nothing else: each has
 * catalogs of its own. Lines of different sessions are worked on side by side.
 */
public class Driver {
	private static final DateTimeFormatter MICROS = DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ss.SSSSSS");
	private static final Map<String, SparkSession> sessions = new ConcurrentHashMap<>();
	private static final Map<String, ExecutorService> workers = new ConcurrentHashMap<>();

	public static void main(String[] args) throws Exception {
		PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
		System.setOut(System.err); // nobody else writes into the conversation
		SparkSession.Builder builder = SparkSession.builder().master("local[2]").appName("interop");
		for (String line : Files.readAllLines(Path.of(args[0]))) {
			String[] pair = line.split("=", 2);
			builder = builder.config(pair[0], pair[1]);
		}
		SparkSession root = builder.getOrCreate();
		out.println("{\"id\": \"ready\", \"version\": " + quoted(root.version()) + "}");
		BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
		for (String line; (line = in.readLine()) != null;) {
			String[] part = line.split("\t", 4);
			workers.computeIfAbsent(part[1], k -> Executors.newSingleThreadExecutor()).submit(() -> {
				String answer = answer(root, part);
				synchronized (out) {
					out.println(answer);
				}
			});
		}
		root.stop();
		System.exit(0);
	}

	private static String answer(SparkSession root, String[] part) {
		try {
			SparkSession session = sessions.computeIfAbsent(part[1], k -> root.newSession());
			SparkSession.setActiveSession(session);
			String text = new String(Base64.getDecoder().decode(part[3]), StandardCharsets.UTF_8);
			if (part[2].equals("conf")) {
				for (String line : text.split("\n")) {
					String[] pair = line.split("=", 2);
					session.conf().set(pair[0], pair[1]);
				}
				return "{\"id\": " + quoted(part[0]) + ", \"types\": [], \"rows\": []}";
			}
			if (part[2].equals("unequal")) {
				deleteByEquality(session, text.split("\n"));
				return "{\"id\": " + quoted(part[0]) + ", \"types\": [], \"rows\": []}";
			}
			return result(part[0], session.sql(text));
		} catch (Throwable e) {
			StringBuilder why = new StringBuilder();
			for (Throwable t = e; t != null; t = t.getCause())
				why.append(t.getClass().getName()).append(": ").append(t.getMessage()).append('\n');
			return "{\"id\": " + quoted(part[0]) + ", \"error\": " + quoted(why.toString()) + "}";
		}
	}

	/** An equality delete, which Spark reads but never writes. Lines: table, column of longs, its values, and of which partition. */
	private static void deleteByEquality(SparkSession session, String[] told) throws Exception {
		Table table = Spark3Util.loadIcebergTable(session, told[0]);
		PartitionData partition = null;
		if (table.spec().isPartitioned()) {
			partition = new PartitionData(table.spec().partitionType());
			partition.set(0, told[3]);
		}
		Schema key = table.schema().select(told[1]);
		GenericFileWriterFactory writers = new GenericFileWriterFactory.Builder(table)
			.equalityFieldIds(new int[] {key.findField(told[1]).fieldId()}).equalityDeleteRowSchema(key).build();
		EqualityDeleteWriter<Record> writer = writers.newEqualityDeleteWriter(
			OutputFileFactory.builderFor(table, 1, System.nanoTime()).build().newOutputFile(table.spec(), partition), table.spec(), partition);
		try (writer) {
			for (String value : told[2].split(",")) {
				Record row = GenericRecord.create(key);
				row.setField(told[1], Long.valueOf(value));
				writer.write(row);
			}
		}
		table.newRowDelta().addDeletes(writer.toDeleteFile()).commit();
	}

	private static String result(String id, Dataset<Row> data) {
		StringBuilder s = new StringBuilder("{\"id\": " + quoted(id) + ", \"types\": [");
		String sep = "";
		for (StructField f : data.schema().fields()) {
			s.append(sep).append('[').append(quoted(f.name())).append(", ").append(quoted(f.dataType().simpleString())).append(']');
			sep = ", ";
		}
		s.append("], \"rows\": [");
		sep = "";
		for (Row row : data.collectAsList()) {
			s.append(sep);
			add(s, row);
			sep = ", ";
		}
		return s.append("]}").toString();
	}

	/** Values as all engines of the tests tell them: see canonical() in engines.py. */
	private static void add(StringBuilder s, Object v) {
		if (v == null || v instanceof Boolean || v instanceof Integer || v instanceof Long || v instanceof Short || v instanceof Byte)
			s.append(v);
		else if (v instanceof Row r)
			addAll(s, '[', JavaConverters.seqAsJavaList(r.toSeq()), ']');
		else if (v instanceof scala.collection.Map<?, ?> m)
			addAll(s, '[', JavaConverters.seqAsJavaList(m.toSeq()), ']');
		else if (v instanceof scala.Tuple2<?, ?> t)
			addAll(s, '[', Arrays.asList(t._1(), t._2()), ']');
		else if (v instanceof scala.collection.Seq<?> q)
			addAll(s, '[', JavaConverters.seqAsJavaList(q), ']');
		else if (v instanceof Double || v instanceof Float)
			s.append(((Number) v).doubleValue());
		else if (v instanceof byte[] b)
			s.append(quoted(HexFormat.of().formatHex(b)));
		else if (v instanceof BigDecimal d)
			s.append(quoted(d.toPlainString()));
		else if (v instanceof Instant i)
			s.append(quoted(MICROS.format(i.atOffset(ZoneOffset.UTC)) + "Z"));
		else if (v instanceof LocalDateTime t)
			s.append(quoted(MICROS.format(t)));
		else
			s.append(quoted(v.toString()));
	}

	private static void addAll(StringBuilder s, char open, Iterable<?> values, char close) {
		s.append(open);
		String sep = "";
		for (Object v : values) {
			s.append(sep);
			add(s, v);
			sep = ", ";
		}
		s.append(close);
	}

	private static String quoted(String text) {
		StringBuilder s = new StringBuilder("\"");
		for (char c : text.toCharArray()) {
			if (c == '"' || c == '\\')
				s.append('\\').append(c);
			else if (c < ' ')
				s.append(String.format("\\u%04x", (int) c));
			else
				s.append(c);
		}
		return s.append('"').toString();
	}
}

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.from_json;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;

/** BROKERS TOPIC FOLDER COLUMNS: what is in the topic into an Iceberg table, by one availableNow query. Prints the session's seconds, the query's, and the table's rows. */
public final class KafkaStream {
	public static void main(String[] args) throws Exception {
		long began = System.nanoTime();
		SparkSession spark = SparkSession.builder().master("local[*]").config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
			.config("spark.driver.bindAddress", "127.0.0.1").config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "2")
			.config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
			.config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog").config("spark.sql.catalog.lake.type", "hadoop")
			.config("spark.sql.catalog.lake.warehouse", "file://" + args[2] + "/warehouse").getOrCreate();
		spark.sql("CREATE TABLE lake.stg.orders (" + args[3] + ") USING iceberg");
		long ready = System.nanoTime();
		Dataset<Row> rows = spark.readStream().format("kafka").option("kafka.bootstrap.servers", args[0]).option("subscribe", args[1])
			.option("startingOffsets", "earliest").load()
			.select(from_json(col("value").cast("string"), StructType.fromDDL(args[3])).as("v")).select("v.*");
		rows.writeStream().format("iceberg").outputMode("append").trigger(Trigger.AvailableNow()).option("checkpointLocation", args[2] + "/checkpoint")
			.toTable("lake.stg.orders").awaitTermination();
		long ended = System.nanoTime();
		System.out.println((ready - began) / 1e9 + " " + (ended - ready) / 1e9 + " " + spark.table("lake.stg.orders").count());
		spark.stop();
	}
}

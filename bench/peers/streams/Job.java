import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams, one thread, exactly_once_v2 or at_least_once: counts in an in-memory store with a changelog.
 *
 * <p>A store's cache takes what changes between two commits; `buffered.records.per.partition` stands above
 * `max.poll.records`, or reading pauses after each poll.
 */
public final class Job {
  private static final long EVENTS = Long.parseLong(System.getenv("BENCH_EVENTS"));
  private static final AtomicLong RECORDS = new AtomicLong();
  private static final AtomicLong BEGAN = new AtomicLong();
  private static final AtomicLong CPU_BEGAN = new AtomicLong();
  private static final CountDownLatch DONE = new CountDownLatch(1);
  private static final Set<Long> USERS = ConcurrentHashMap.newKeySet();
  private static final JsonFactory JSON = new JsonFactory();

  private static long cpuNanos() {
    var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    return system.getProcessCpuTime();
  }

  /** The most memory that this process had resident; 0 where there is no /proc. */
  private static long peakMebibytes() throws java.io.IOException {
    var status = Path.of("/proc/self/status");
    if (!Files.exists(status)) {
      return 0;
    }
    return Files.readAllLines(status).stream().filter(line -> line.startsWith("VmHWM:"))
        .mapToLong(line -> Long.parseLong(line.split("\\s+")[1]) / 1024).findFirst().orElse(0);
  }

  /** Counts one partition. */
  private static final class Counter extends ContextualProcessor<byte[], byte[], Void, Void> {
    private KeyValueStore<String, Long> counts;

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      super.init(context);
      counts = context.getStateStore("counts");
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      if (BEGAN.get() == 0 && BEGAN.compareAndSet(0, System.nanoTime())) {
        CPU_BEGAN.set(cpuNanos());
      }
      try (JsonParser parser = JSON.createParser(record.value())) {
        while (parser.nextToken() != null) {
          if (parser.currentToken() != JsonToken.FIELD_NAME) {
            continue;
          }
          switch (parser.currentName()) {
            case "user_id" -> {
              parser.nextToken();
              USERS.add(parser.getLongValue());
            }
            case "action" -> add("actions:" + parser.nextTextValue());
            case "device" -> add("devices:" + parser.nextTextValue());
            default -> parser.nextToken();
          }
        }
      } catch (java.io.IOException error) {
        throw new java.io.UncheckedIOException(error);
      }
      if (RECORDS.incrementAndGet() >= EVENTS) {
        DONE.countDown();
      }
    }

    private void add(String name) {
      Long before = counts.get(name);
      counts.put(name, before == null ? 1L : before + 1L);
    }
  }

  /** Adds up the stores of all partitions. */
  private static Map<String, Long> counted(KafkaStreams streams) {
    var query = StoreQueryParameters.fromNameAndType("counts", QueryableStoreTypes.<String, Long>keyValueStore());
    var sums = new TreeMap<String, Long>();
    try (var all = streams.store(query).all()) {
      all.forEachRemaining(one -> sums.merge(one.key, one.value, Long::sum));
    }
    return sums;
  }

  private static String json(Map<String, Long> counts, String prefix) {
    var lines = new StringBuilder();
    counts.forEach((name, count) -> {
      if (name.startsWith(prefix)) {
        lines.append(lines.length() > 0 ? "," : "");
        lines.append('"').append(name.substring(prefix.length())).append("\":").append(count);
      }
    });
    return "{" + lines + "}";
  }

  public static void main(String[] arguments) throws Exception {
    var settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("BENCH_GROUP"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("BENCH_SERVERS"));
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, System.getenv("BENCH_GUARANTEE"));
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20_000);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    settings.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("streams").toString());
    settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    var store = Stores.keyValueStoreBuilder(
        Stores.inMemoryKeyValueStore("counts"), Serdes.String(), Serdes.Long()).withCachingEnabled();
    var topology = new Topology()
        .addSource("in", System.getenv("BENCH_TOPIC"))
        .addProcessor("count", Counter::new, "in")
        .addStateStore(store, "count");
    var streams = new KafkaStreams(topology, settings);
    streams.start();
    DONE.await();
    var counts = counted(streams);
    streams.close(Duration.ofSeconds(30)); // Commits.
    System.out.printf(
        "{\"records\": %d, \"seconds\": %f, \"cpu_seconds\": %f, \"peak_mebibytes\": %d, "
            + "\"counts\": {\"actions\": %s, \"devices\": %s, \"users\": %d}}%n",
        RECORDS.get(), (System.nanoTime() - BEGAN.get()) / 1e9, (cpuNanos() - CPU_BEGAN.get()) / 1e9,
        peakMebibytes(),
        json(counts, "actions:"), json(counts, "devices:"), USERS.size());
  }
}

//! What a node that runs in this process logs and counts.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

static LOG: Mutex<String> = Mutex::new(String::new());
static COUNTS: Mutex<BTreeMap<String, Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());

/// From now on, everything is kept.
pub(crate) fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        assert!(metrics::set_global_recorder(Counts).is_ok());
        tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_writer(|| Kept)
            .init();
    });
}

/// How often `muster_node_refused_total` was incremented for `reason`.
pub(crate) fn refused(reason: &str) -> u64 {
    let name = format!("muster_node_refused_total{{{reason}}}");
    let counts = COUNTS.lock().unwrap();
    counts
        .get(&name)
        .map_or(0, |count| count.load(Ordering::SeqCst))
}

/// The log lines that name process `pid`.
pub(crate) fn logged(pid: u32) -> Vec<String> {
    let named = [format!("\"pid\":{pid},"), format!("\"pid\":{pid}}}")];
    let log = LOG.lock().unwrap();
    let lines = log
        .lines()
        .filter(|line| named.iter().any(|name| line.contains(name)));
    lines.map(str::to_owned).collect()
}

struct Kept;

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock()
            .unwrap()
            .push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Counts;

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<&str> = key.labels().map(metrics::Label::value).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        let mut counts = COUNTS.lock().unwrap();
        Counter::from_arc(Arc::clone(counts.entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use proptest::prelude::*;
use serde_json::Value;

use super::exposition::{Kind, families};
use super::histogram::observations;
use super::*;

type Labels = Vec<(String, String)>;

fn encoder() -> Encoder {
    Encoder::new("Coffer".to_owned(), "coffer run", "shop-1".to_owned())
}

fn scrape(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Seconds since 1970.
fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

#[test]
fn lines_are_as_the_format_has_them() {
    let mut registry = Registry::with_prefix("coffer");
    registry.register("build", "Version", Info::new([("version", "0.1.0")]));
    let calls = Family::<Labels, Counter>::default();
    registry.register("aws_calls", "Calls", calls.clone());
    let stale = Family::<Labels, Gauge>::default();
    registry.register("references_stale", "Stale", stale.clone());
    let ends = Gauge::<i64>::default();
    registry.register("credentials_expiry_timestamp_seconds", "Ends", ends.clone());
    ends.set(1_700_000_900);
    let loaded = Gauge::<i64>::default();
    registry.register("config_loaded_timestamp_seconds", "Loaded", loaded.clone());
    loaded.set(1_699_999_990);
    let took = Histogram::new([0.1, 0.5]);
    registry.register("aws_call_duration_seconds", "Took", took.clone());
    for seconds in [0.05, 0.05, 0.3] {
        took.observe(seconds);
    }
    calls.get_or_create(&labels(&[("action", "secretsmanager:GetSecretValue"), ("result", "ok")])).inc();
    calls.get_or_create(&labels(&[("action", "ssm:GetParameters"), ("result", "ok")])).inc_by(2);
    calls.get_or_create(&labels(&[("action", "ssm:GetParameters"), ("result", "throttled")])).inc();
    stale.get_or_create(&labels(&[("volume", "/a")])).set(0);
    stale.get_or_create(&labels(&[("volume", "/b")])).set(2);
    stale.get_or_create(&labels(&[("volume", "/c")])).set(0);

    let mut encoder = encoder();
    let lines = encoder.lines(&scrape(&registry), at(1_700_000_000.0));
    let about = r#""program":"coffer run","instance":"shop-1","version":"0.1.0""#;
    let expected = [
        [
            r#"{"_aws":{"Timestamp":1700000000000,"CloudWatchMetrics":[{"Namespace":"Coffer","Dimensions":[["program"]],"#,
            r#""Metrics":[{"Name":"coffer_aws_call_duration_seconds","Unit":"Seconds"},"#,
            r#"{"Name":"coffer_config_loaded_age_seconds","Unit":"Seconds"},"#,
            r#"{"Name":"coffer_credentials_expiry_seconds","Unit":"Seconds"},"#,
            r#"{"Name":"coffer_references_stale","Unit":"None"}]}]},"#,
            about,
            // The sum is 0.4: two in the first bucket and one in the second, each half the way up.
            r#","coffer_aws_call_duration_seconds":{"Values":[0.05,0.3],"Counts":[2,1]},"#,
            r#""coffer_config_loaded_age_seconds":10,"#,
            r#""coffer_credentials_expiry_seconds":900,"#,
            r#""coffer_references_stale":{"Values":[0,2],"Counts":[2,1]}}"#,
        ]
        .concat(),
        [
            r#"{"_aws":{"Timestamp":1700000000000,"CloudWatchMetrics":[{"Namespace":"Coffer","#,
            r#""Dimensions":[["program","result"]],"Metrics":[{"Name":"coffer_aws_calls","Unit":"Count"}]}]},"#,
            about,
            r#","result":"ok","coffer_aws_calls":3}"#,
        ]
        .concat(),
        [
            r#"{"_aws":{"Timestamp":1700000000000,"CloudWatchMetrics":[{"Namespace":"Coffer","#,
            r#""Dimensions":[["program","result"]],"Metrics":[{"Name":"coffer_aws_calls","Unit":"Count"}]}]},"#,
            about,
            r#","result":"throttled","coffer_aws_calls":1}"#,
        ]
        .concat(),
    ];
    assert_eq!(lines, expected);

    // What nothing came to is left out; a gauge is not.
    calls.get_or_create(&labels(&[("action", "ssm:GetParameters"), ("result", "ok")])).inc();
    let lines = encoder.lines(&scrape(&registry), at(1_700_000_060.0));
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains(r#""coffer_credentials_expiry_seconds":840,"#), "{}", lines[0]);
    assert!(!lines[0].contains("duration"), "{}", lines[0]);
    assert!(lines[1].ends_with(r#""result":"ok","coffer_aws_calls":1}"#), "{}", lines[1]);
}

#[test]
fn no_label_that_names_a_secret_reaches_a_line_and_nothing_under_other_programs_names() {
    let text = "# TYPE coffer_reference_stale gauge\n\
                coffer_reference_stale{volume=\"/v\",reference=\"secretsmanager:prod/db\",role=\"arn:aws:iam::1:role/r\"} 1.0\n\
                # TYPE node_publish counter\nnode_publish_total{provider=\"aws\"} 4\n\
                # TYPE coffer_kms_key_id_info gauge\ncoffer_kms_key_id_info{key=\"k\"} 1.0\n";
    let lines = encoder().lines(text, at(0.0));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.ends_with(r#""coffer_reference_stale":1}"#), "{line}");
    for hidden in ["prod/db", "/v", "arn:", "node_publish", "key_id"] {
        assert!(!line.contains(hidden), "{hidden} in {line}");
    }
}

#[test]
fn a_series_that_has_gone_and_come_again_counts_anew() {
    let text = |count: u64| format!("# TYPE coffer_n counter\ncoffer_n_total{{volume=\"/v\"}} {count}\n");
    let mut encoder = encoder();
    let mut came = |text: &str| {
        let lines = encoder.lines(text, at(0.0));
        lines.first().map(|line| serde_json::from_str::<Value>(line).unwrap()["coffer_n"].as_u64().unwrap())
    };
    assert_eq!(came(&text(5)), Some(5));
    assert_eq!(came(&text(2)), Some(2));
    assert_eq!(came("# EOF\n"), None);
    assert_eq!(came(&text(2)), Some(2));
}

#[test]
fn many_values_of_one_metric_go_into_several_lines() {
    let mut text = "# TYPE coffer_age_seconds gauge\n".to_owned();
    for n in 0..250 {
        text += &format!("coffer_age_seconds{{volume=\"/{n}\"}} {n}.5\n");
    }
    let lines = encoder().lines(&text, at(0.0));
    let values: Vec<usize> = lines
        .iter()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["coffer_age_seconds"]["Values"].as_array().unwrap().len()
        })
        .collect();
    assert_eq!(values, [100, 100, 50]);
}

#[test]
fn a_namespace_is_what_cloudwatch_takes() {
    for good in ["Coffer", "shop/prod #1", "a.b-c_d:e", &"x".repeat(255)] {
        assert!(good.parse::<EmfNamespace>().is_ok(), "{good}");
    }
    for (bad, said) in [
        ("", "leave it out"),
        ("AWS/Coffer", "AWS's own"),
        (":x", "a colon"),
        (" Coffer", "a space"),
        ("Cöffer", "it takes letters"),
        ("a\nb", "it takes letters"),
        (&*"x".repeat(256), "longer than 255"),
    ] {
        let error = bad.parse::<EmfNamespace>().unwrap_err();
        assert!(error.contains(said) && error.contains("use a name such as `Coffer`"), "{bad}: {error}");
    }
}

#[tokio::test]
async fn metrics_are_told_again_and_again_and_once_more_at_the_end() {
    let mut registry = Registry::with_prefix("coffer");
    let counter = Counter::<u64>::default();
    registry.register("n", "Counts", counter.clone());
    let (line, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let told = Told {
        encoder: encoder(),
        registry: Arc::new(registry),
        line: Box::new(move |text| drop(line.send(serde_json::from_str::<Value>(text).unwrap()["coffer_n"].clone()))),
    };
    counter.inc_by(3);
    let report = EmfReport::every(Duration::from_millis(20), told);
    assert_eq!(lines.recv().await, Some(3.into()));
    counter.inc_by(4);
    assert_eq!(lines.recv().await, Some(4.into()));
    // No time for a tick: nothing is awaited.
    counter.inc();
    drop(report);
    assert_eq!(lines.recv().await, Some(1.into()));
    assert_eq!(lines.recv().await, None, "nothing is told after the end");
}

proptest! {
    #[test]
    fn labels_are_read_as_they_were_written(value in ".*", other in "[\\\\\"\n,}= a]{0,8}", count in 0_u64..1000) {
        let family = Family::<Labels, Counter>::default();
        family.get_or_create(&labels(&[("a", &value), ("b", &other)])).inc_by(count);
        let mut registry = Registry::default();
        registry.register("n", "Counts", family);
        let text = scrape(&registry);
        let read = families(&text);
        prop_assert_eq!(read.len(), 1);
        prop_assert_eq!((read[0].name, read[0].kind), ("n", Kind::Counter));
        // Lines end at a line feed; other ends of lines that text may hold are kept in place.
        let sample = &read[0].samples[0];
        let got: Vec<(&str, &str)> = sample.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        prop_assert_eq!(got, [("a", value.as_str()), ("b", other.as_str())]);
        prop_assert_eq!(sample.ending, "_total");
        prop_assert_eq!(sample.value, count as f64);
    }

    #[test]
    fn anything_is_read_without_a_panic(text in "(# TYPE [a-z]{1,3} (counter|gauge|histogram)\n|[a-z]{1,3}(\\{[a-z]=\"|\\}| |\"|\\\\|1)*\n|.{0,20}\n)*") {
        encoder().lines(&text.replace("# TYPE ", "# TYPE coffer_"), at(1.0));
        families(&text);
    }

    #[test]
    fn a_histograms_values_have_its_count_its_sum_and_its_buckets(
        seen in proptest::collection::vec(0.0_f64..20.0, 0..60),
        bounds in proptest::collection::btree_set(1_u32..1500, 1..12),
    ) {
        let bounds: Vec<f64> = bounds.into_iter().map(|bound| f64::from(bound) / 100.0).chain([f64::INFINITY]).collect();
        let mut buckets: Vec<(f64, u64)> = bounds.iter().map(|bound| (*bound, 0)).collect();
        for value in &seen {
            buckets.iter_mut().find(|(bound, _)| value <= bound).unwrap().1 += 1;
        }
        let sum: f64 = seen.iter().sum();
        let told = observations(&buckets, sum);
        let counts: Vec<u64> = told.iter().map(|(_, count)| *count).collect();
        let wanted: Vec<u64> = buckets.iter().map(|(_, count)| *count).filter(|count| *count > 0).collect();
        prop_assert_eq!(counts, wanted);
        let total: f64 = told.iter().map(|(value, count)| value * *count as f64).sum();
        prop_assert!((total - sum).abs() < 1e-6, "{} for {}", total, sum);
        let mut lower = 0.0;
        let mut told = told.iter();
        for (upper, count) in buckets {
            if count > 0 {
                let value = told.next().unwrap().0;
                prop_assert!(lower - 1e-9 <= value && value <= upper + 1e-9, "{} in {}..{}", value, lower, upper);
            }
            lower = upper;
        }
    }

    #[test]
    fn whatever_is_counted_is_told_once_in_lines_within_the_limits(
        // For each round, what each of many counters and gauges gets.
        rounds in proptest::collection::vec(
            proptest::collection::vec((0_usize..150, 0_usize..5, 0_u64..1_000_000_000_000, any::<f64>()), 0..120), 1..4),
        namespace in "[A-Za-z/]{1,255}",
    ) {
        const RESULTS: [&str; 5] = ["ok", "throttled", "access_denied", "not_found", ""];
        let mut encoder = Encoder::new(namespace, "coffer-injector csi", "node".to_owned());
        let mut counters: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let mut told: BTreeMap<(String, String), f64> = BTreeMap::new();
        for round in rounds {
            let mut gauges: BTreeMap<(usize, u64), f64> = BTreeMap::new();
            for (name, result, more, gauge) in round {
                *counters.entry((name, result)).or_default() += more;
                gauges.insert((name, more % 120), gauge);
            }
            let mut text = String::new();
            let mut last = usize::MAX;
            for ((name, result), count) in &counters {
                if last != *name {
                    text += &format!("# HELP coffer_count_{name} Help.\n# TYPE coffer_count_{name} counter\n");
                    last = *name;
                }
                text += &format!("coffer_count_{name}_total{{volume=\"/v\",result=\"{}\"}} {count}\n", RESULTS[*result]);
            }
            let mut last = usize::MAX;
            for ((name, volume), value) in &gauges {
                if last != *name {
                    text += &format!("# TYPE coffer_gauge_{name}_seconds gauge\n");
                    last = *name;
                }
                text += &format!("coffer_gauge_{name}_seconds{{volume=\"/{volume}\"}} {value}\n");
            }
            for line in encoder.lines(&text, at(1_700_000_000.0)) {
                prop_assert!(line.len() < 4096, "{} bytes", line.len());
                prop_assert!(!line.contains('\n'));
                let root: Value = serde_json::from_str(&line).unwrap();
                let directives = root["_aws"]["CloudWatchMetrics"].as_array().unwrap();
                prop_assert_eq!(directives.len(), 1);
                let dimensions = directives[0]["Dimensions"][0].as_array().unwrap();
                prop_assert!(dimensions.len() <= 30);
                prop_assert!(dimensions.iter().all(|name| root[name.as_str().unwrap()].is_string()));
                let metrics = directives[0]["Metrics"].as_array().unwrap();
                prop_assert!((1..=100).contains(&metrics.len()));
                let mut names = HashSet::new();
                for metric in metrics {
                    let name = metric["Name"].as_str().unwrap();
                    prop_assert!(names.insert(name), "{} twice", name);
                    let value = &root[name];
                    if let Some(count) = value.as_f64() {
                        prop_assert!(count.is_finite());
                    } else {
                        let values = value["Values"].as_array().unwrap();
                        let counts = value["Counts"].as_array().unwrap();
                        prop_assert!(values.len() == counts.len() && (1..=100).contains(&values.len()));
                        prop_assert!(values.iter().all(Value::is_number) && counts.iter().all(Value::is_u64));
                    }
                    if name.starts_with("coffer_count") {
                        let result = root["result"].as_str().unwrap_or_default().to_owned();
                        *told.entry((name.to_owned(), result)).or_default() += value.as_f64().unwrap();
                    }
                }
            }
        }
        let wanted: BTreeMap<(String, String), f64> = counters
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|((name, result), count)| ((format!("coffer_count_{name}"), RESULTS[result].to_owned()), count as f64))
            .collect();
        prop_assert_eq!(told, wanted);
    }
}

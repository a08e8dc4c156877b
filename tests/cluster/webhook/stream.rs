//! Pods that are made one after another, while something happens to the webhook.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Ground, asks_for_password, init_containers, pod};

/// How many are made at a time in each namespace, and how long each waits before the next.
const LANES: usize = 2;
const PAUSE: Duration = Duration::from_millis(20);

/// What came of them.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Those that were made with the sidecar.
    pub(crate) injected: usize,
    /// When one was made without it.
    pub(crate) bare: Vec<Instant>,
    /// When one was not made, and why.
    pub(crate) refused: Vec<(Instant, String)>,
}

impl Ground {
    /// Makes annotated pods in some namespaces while something else goes on, and lets each go again. They are kept from
    /// being scheduled: it is about their admission alone.
    pub(crate) async fn while_pods_are_made<T>(
        &self,
        namespaces: &[&str],
        something: impl Future<Output = Result<T>>,
    ) -> Result<(T, Made)> {
        let done = AtomicBool::new(false);
        let lanes = namespaces.iter().flat_map(|namespace| [*namespace; LANES]);
        let lanes = join_all(lanes.map(|namespace| self.make_pods(namespace, &done)));
        let something = async {
            let result = something.await;
            done.store(true, Ordering::Relaxed);
            result
        };
        let (result, lanes) = tokio::join!(something, lanes);
        let mut all = Made::default();
        for lane in lanes {
            all.injected += lane.injected;
            all.bare.extend(lane.bare);
            all.refused.extend(lane.refused);
        }
        Ok((result?, all))
    }

    async fn make_pods(&self, namespace: &str, done: &AtomicBool) -> Made {
        let mut wanted = pod(&asks_for_password());
        wanted["spec"]["schedulingGates"] = serde_json::json!([{"name": "coffer.test/never"}]);
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let mut made = Made::default();
        while !done.load(Ordering::Relaxed) {
            let asked = Instant::now();
            match self.plane.api().create(&path, &wanted).await {
                Ok(object) => {
                    let told = object["metadata"]["annotations"]["coffer.dev/status"].is_string();
                    match told && init_containers(&object).contains(&"coffer") {
                        true => made.injected += 1,
                        false => made.bare.push(asked),
                    }
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    // One that stays is in nobody's way.
                    let _: Result<Value> = self.plane.api().delete(&format!("{path}/{name}")).await;
                }
                Err(error) => made.refused.push((asked, format!("{error:#}"))),
            }
            sleep(PAUSE).await;
        }
        made
    }
}

impl Made {
    /// Checks that all were made with the sidecar, and that there were enough of them to tell.
    pub(crate) fn all_injected(&self, least: usize) -> Result<()> {
        let first = self.refused.first().map_or("", |(_, why)| why);
        ensure!(self.refused.is_empty(), "{} of {} were refused: {first}", self.refused.len(), self.injected);
        ensure!(self.bare.is_empty(), "{} were made without the sidecar", self.bare.len());
        ensure!(self.injected >= least, "only {} pods were made", self.injected);
        Ok(())
    }
}

//! Reads the queue of a config file and writes what it hands on and what is known of the queue, a
//! line of JSON each: what the push tests run where no file and no engine is of interest.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, Error, Result};
use coffer::identity::Identities;
use coffer::push::{Change, PushHandle, listen};
use coffer::reload::ConfigFile;
use coffer_runtime::aws::{Aws, CallObserver, Timeouts};
use coffer_runtime::telemetry::Calls;
use coffer_runtime::telemetry::{LogFormat, LogLevel, init_logs};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    init_logs("debug".parse::<LogLevel>().map_err(Error::msg)?, LogFormat::Text);
    let path = env::args().nth(1).context("the config's path is missing")?;
    let spec = ConfigFile::new(&path).load()?.push.context("the config has no `push`")?;
    let calls: Arc<dyn CallObserver> = Arc::new(Calls::default());
    let aws = Aws::load(None, Timeouts::default()).await?;
    let region = aws.region().context("AWS_REGION is missing")?.to_owned();
    let identities = Identities::new(aws.clone(), &region, "listener".to_owned(), Arc::clone(&calls));
    let credentials = identities.credentials(spec.role.as_ref());
    let status = PushHandle::new(spec.queue.as_str());

    let listening = listen(spec, aws, &region, credentials, calls, status.clone(), |changes: Vec<Change>| {
        let changes: Vec<String> = changes.iter().map(|change| format!("{change:?}")).collect();
        write(&json!({ "changes": changes }));
        std::future::ready(Ok(()))
    });
    let showing = async {
        let mut shown = Value::Null;
        loop {
            let now = serde_json::to_value(status.snapshot()).unwrap_or_default();
            if now != shown {
                write(&json!({ "status": now }));
                shown = now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        never = listening => match never {},
        () = showing => Ok(()),
    }
}

fn write(line: &Value) {
    // The reader is gone, and this process will be in a moment.
    let _ = writeln!(io::stdout(), "{line}");
}

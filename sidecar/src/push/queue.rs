//! The calls to SQS, each turned from the SDK's shapes into ours at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs as sqs;
use aws_types::request_id::RequestId;
use coffer_runtime::aws::{Aws, AwsError, CallObserver, Class, Credentials, UserAgent};
use sqs::config::timeout::TimeoutConfig;
use sqs::types::DeleteMessageBatchRequestEntry;

use super::explain::about_queue;

/// Most messages that one call gives or deletes (SQS API reference).
pub(super) const BATCH_MAX: usize = 10;
/// How long a message stays hidden from other reads, in seconds, whatever the queue's own setting:
/// time to hand it on and to delete it, and after a crash it soon comes again.
const HIDDEN_FOR: i32 = 30;
/// A long poll is answered after up to 20 s; this is for the way there and back.
const LONG_POLL_MARGIN: Duration = Duration::from_secs(10);

const RECEIVE: &str = "sqs:ReceiveMessage";
/// The permission that DeleteMessageBatch needs (Service Authorization Reference, Amazon SQS).
const DELETE: &str = "sqs:DeleteMessage";

/// One queue, read under one identity.
pub(super) struct Queue {
    client: sqs::Client,
    timeouts: TimeoutConfig,
    url: String,
    credentials: Credentials,
    calls: Arc<dyn CallObserver>,
}

/// A message of the queue.
pub(super) struct Message {
    /// The same each time that it is received.
    pub(super) id: String,
    /// What deletes it.
    pub(super) receipt: String,
    pub(super) body: String,
}

impl Queue {
    pub(super) fn new(
        aws: &Aws,
        region: &str,
        url: &str,
        credentials: Credentials,
        calls: Arc<dyn CallObserver>,
    ) -> Self {
        let config = aws.client_config(region, credentials.clone());
        let timeouts = config.timeout_config().cloned().unwrap_or_else(TimeoutConfig::disabled);
        let client = sqs::config::Builder::from(&config).interceptor(UserAgent).build();
        Self { client: sqs::Client::from_conf(client), timeouts, url: url.to_owned(), credentials, calls }
    }

    /// As whom it is read.
    pub(super) fn who(&self) -> &str {
        self.credentials.label()
    }

    /// Up to ten messages; waits for the first for up to `wait`, of at most 20 s and whole seconds.
    pub(super) async fn receive(&self, wait: Duration) -> Result<Vec<Message>, AwsError> {
        let seconds = i32::try_from(wait.as_secs()).unwrap_or(20).min(20);
        let attempt = wait + LONG_POLL_MARGIN;
        let timeouts = self
            .timeouts
            .to_builder()
            .operation_attempt_timeout(attempt)
            .operation_timeout(attempt + Duration::from_secs(1))
            .build();
        let ask = || async {
            let answer = self
                .client
                .receive_message()
                .queue_url(&self.url)
                .max_number_of_messages(i32::try_from(BATCH_MAX).unwrap_or(10))
                .wait_time_seconds(seconds)
                .visibility_timeout(HIDDEN_FOR)
                .customize()
                .config_override(sqs::config::Builder::new().timeout_config(timeouts.clone()))
                .send()
                .await
                .map_err(|error| about_queue(AwsError::from_sdk(RECEIVE, &error)))?;
            let request_id = answer.request_id().map(str::to_owned);
            Ok((answer.messages.unwrap_or_default(), request_id))
        };
        let messages = self.call(RECEIVE, ask).await?;
        // One without a receipt could not be deleted; SQS sends none.
        let message = |message: sqs::types::Message| {
            let receipt = message.receipt_handle?;
            Some(Message {
                id: message.message_id.unwrap_or_default(),
                receipt,
                body: message.body.unwrap_or_default(),
            })
        };
        Ok(messages.into_iter().filter_map(message).collect())
    }

    /// Deletes up to ten messages; how many are gone, which may be fewer.
    pub(super) async fn delete(&self, messages: &[Message]) -> Result<usize, AwsError> {
        let entry = |(at, message): (usize, &Message)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(&message.receipt)
                .build()
                .map_err(|_| AwsError::new(DELETE, Class::Invalid, "RequestNotSent", "a message without a receipt"))
        };
        let entries = messages.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
        let ask = || async {
            let ask = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries.clone()));
            let answer = ask.send().await.map_err(|error| about_queue(AwsError::from_sdk(DELETE, &error)))?;
            let request_id = answer.request_id().map(str::to_owned);
            Ok(((answer.successful.len(), answer.failed), request_id))
        };
        let (gone, failed) = self.call(DELETE, ask).await?;
        for entry in &failed {
            tracing::debug!(code = entry.code, "a message was not deleted, and will come again");
        }
        match failed.first() {
            // A failure of all is not of a message but of the queue.
            Some(entry) if gone == 0 => {
                let class = Class::of_code(&entry.code, if entry.sender_fault { 400 } else { 500 });
                let text = entry.message.as_deref().unwrap_or("no message");
                Err(about_queue(AwsError::new(DELETE, class, entry.code.clone(), text)))
            }
            _ => Ok(gone),
        }
    }

    async fn call<T, Fut>(&self, action: &'static str, ask: impl Fn() -> Fut) -> Result<T, AwsError>
    where
        Fut: Future<Output = Result<(T, Option<String>), AwsError>>,
    {
        // One reader, a call at a time: there is nothing to wait for.
        self.credentials.call(action, &*self.calls, || async {}, ask).await
    }
}

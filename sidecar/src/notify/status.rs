//! What is known of a volume's actions.

use std::time::SystemTime;

use serde::Serialize;

use crate::epoch::seconds;

/// What is known of one action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActionStatus {
    /// What it is called; see [`crate::spec::Action`].
    pub action: String,
    /// What it is doing.
    pub state: ActionState,
    /// How many attempts have ended.
    pub runs: u64,
    /// How many of these failed.
    pub failures: u64,
    /// How many swaps have been told.
    pub swaps: u64,
    /// When an attempt last ended, in seconds since 1970.
    #[serde(serialize_with = "seconds")]
    pub last_run: Option<SystemTime>,
    /// When a swap was last told, in seconds since 1970.
    #[serde(serialize_with = "seconds")]
    pub last_success: Option<SystemTime>,
    /// Why the last attempt failed, and the fix; `None` once one succeeded.
    pub last_error: Option<String>,
    /// When it runs next, in seconds since 1970; `None` while there is nothing to tell, or when it
    /// was given up until the next swap.
    #[serde(serialize_with = "seconds")]
    pub next_try: Option<SystemTime>,
}

/// What an action is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// Everything has been told.
    Idle,
    /// A swap has yet to be told, and it is not time yet.
    Waiting,
    /// It is running.
    Running,
    /// The last attempt failed, and the application may not know of the set in place.
    Failing,
}

impl ActionStatus {
    pub(super) fn new(action: String) -> Self {
        Self {
            action,
            state: ActionState::Idle,
            runs: 0,
            failures: 0,
            swaps: 0,
            last_run: None,
            last_success: None,
            last_error: None,
            next_try: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_json_has_seconds_and_a_word_for_the_state() {
        let status = ActionStatus {
            state: ActionState::Failing,
            last_run: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(2500)),
            last_error: Some("why".into()),
            ..ActionStatus::new("touch /a".into())
        };
        assert_eq!(
            serde_json::to_string(&status).unwrap(),
            r#"{"action":"touch /a","state":"failing","runs":0,"failures":0,"swaps":0,"last_run":2,"last_success":null,"last_error":"why","next_try":null}"#
        );
    }
}

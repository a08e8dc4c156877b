//! What is the same for all pods, as flags.

use coffer_injector::webhook::mutation::Settings;

/// Of the containers that are added.
#[derive(Debug, clap::Args)]
pub(super) struct PodArguments {
    /// The image with /coffer in it, where a pod does not name one
    #[arg(long, value_name = "IMAGE")]
    image: String,
}

impl PodArguments {
    pub(super) fn settings(&self) -> Settings {
        Settings {
            image: self.image.clone(),
            pull_policy: None,
            run_as_user: Some(10002),
            env: Vec::new(),
            token_audience: "sts.amazonaws.com".to_owned(),
        }
    }
}

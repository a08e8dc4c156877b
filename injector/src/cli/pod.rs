//! What is the same for all pods, as flags.

use coffer_injector::webhook::mutation::Settings;

/// Of the containers that are added.
#[derive(Debug, clap::Args)]
pub(super) struct PodArguments {
    /// The image with /coffer in it, where a pod does not name one
    #[arg(long, value_name = "IMAGE")]
    image: String,

    /// A variable of every container that is added; may be repeated
    #[arg(long = "container-env", value_name = "NAME=VALUE", value_parser = variable)]
    container_env: Vec<(String, String)>,
}

impl PodArguments {
    pub(super) fn settings(&self) -> Settings {
        Settings {
            image: self.image.clone(),
            pull_policy: None,
            run_as_user: Some(10002),
            env: self.container_env.clone(),
            token_audience: "sts.amazonaws.com".to_owned(),
        }
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "NAME=VALUE".to_owned())
}

//! What the webhook puts into every pod, wherever its code runs.

use std::path::{Component, Path};

use coffer_injector::webhook::annotations::check_image;
use coffer_injector::webhook::mutation::Settings;

use super::Failed;

/// What holds for all pods of a cluster.
#[derive(Debug, clap::Args)]
pub(super) struct PodArguments {
    /// The image with `/coffer` in it, where a pod names none in coffer.dev/image
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    pub(super) image: Option<String>,

    /// When the kubelet pulls it: Always, IfNotPresent or Never [default: Kubernetes' own rule]
    #[arg(long, value_name = "WHEN", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,

    /// The user that Coffer's containers run as; `none` leaves it to the cluster, as OpenShift has it
    #[arg(long, value_name = "UID", default_value = "10002", value_parser = user)]
    run_as_user: User,

    /// The seccomp profile of Coffer's containers, a file in the kubelet's folder `seccomp` of every node, such as
    /// profiles/coffer.json [default: the container runtime's own]
    #[arg(long, value_name = "FILE", value_parser = profile)]
    seccomp_profile: Option<String>,

    /// A variable of every container of Coffer's, such as AWS_USE_FIPS_ENDPOINT=true; no secrets: every pod shows it
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    container_env: Vec<(String, String)>,

    /// Whether the cluster knows init containers that go on running (Kubernetes 1.29)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) native_sidecars: NativeSidecars,

    /// The audience of service accounts' tokens that are shown to AWS
    #[arg(long, value_name = "AUDIENCE", default_value = "sts.amazonaws.com")]
    token_audience: String,
}

/// Whether there are native sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum NativeSidecars {
    /// As the cluster's version has it; without a cluster, as if always
    Auto,
    /// There are
    Always,
    /// There are none: an init container and a container beside the application take their place
    Never,
}

#[derive(Clone, Copy, Debug)]
struct User(Option<u32>);

impl PodArguments {
    /// The settings.
    ///
    /// # Errors
    /// When no image is named.
    pub(super) fn settings(&self) -> Result<Settings, Failed> {
        let image = self.image.as_deref();
        let image = image.ok_or_else(|| Failed::usage("no image is named; say with --image where `/coffer` is"))?;
        Ok(self.settings_with(image))
    }

    /// The settings, with this image where none is named.
    pub(super) fn settings_with(&self, image: &str) -> Settings {
        Settings {
            image: self.image.as_deref().unwrap_or(image).to_owned(),
            pull_policy: self.image_pull_policy.clone(),
            run_as_user: self.run_as_user.0,
            seccomp_profile: self.seccomp_profile.clone(),
            env: self.container_env.clone(),
            token_audience: self.token_audience.clone(),
        }
    }
}

/// As the annotation `image` is checked: with a wrong one every pod would fail.
fn image(text: &str) -> Result<String, String> {
    check_image(text).map(|()| text.to_owned())
}

fn user(text: &str) -> Result<User, String> {
    match text {
        "none" => Ok(User(None)),
        // The containers are to be runAsNonRoot, and Linux has no user of the last number.
        _ => match text.parse().ok().filter(|user| (1..u32::MAX).contains(user)) {
            Some(user) => Ok(User(Some(user))),
            None => Err("takes the number of a user that is not root, or `none`".to_owned()),
        },
    }
}

/// As Kubernetes takes it: with a wrong one every pod would fail.
fn profile(text: &str) -> Result<String, String> {
    let below = Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
    match below && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => {
            Err("takes a path below the kubelet's folder `seccomp`, without `/` before it and without `..`".to_owned())
        }
    }
}

/// Those that the webhook gives itself.
const OWN: [&str; 5] = ["POD_NAME", "POD_NAMESPACE", "COFFER_LISTEN", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"];

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("takes NAME=VALUE")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(is_plain) || name.as_bytes()[0].is_ascii_digit() {
        return Err("takes NAME=VALUE, the name of letters, digits and `_`".to_owned());
    }
    if OWN.contains(&name) {
        return Err(format!("{name} is given to every pod by its annotations"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        pod: PodArguments,
    }

    fn parse(arguments: &[&str]) -> Result<PodArguments, String> {
        let parsed = Command::try_parse_from(["test"].iter().chain(arguments));
        parsed.map(|command| command.pod).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_what_the_flags_say() {
        let said = parse(&["--image=x:1", "--image-pull-policy=Always", "--run-as-user=none", "--container-env=A=b=c"])
            .unwrap();
        let Ok(settings) = said.settings() else { panic!("settings") };
        assert_eq!((settings.image.as_str(), settings.pull_policy.as_deref()), ("x:1", Some("Always")));
        assert_eq!((settings.run_as_user, settings.env), (None, vec![("A".to_owned(), "b=c".to_owned())]));
        let nothing = parse(&[]).unwrap();
        assert!(nothing.settings().is_err());
        assert_eq!(nothing.settings_with("x").run_as_user, Some(10002));
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (argument, expected) in [
            ("--image=https://x/y:1", "without `https://`"),
            ("--image=A", "is no reference of an image"),
            ("--run-as-user=0", "not root, or `none`"),
            ("--run-as-user=4294967295", "not root, or `none`"),
            ("--seccomp-profile=/var/lib/kubelet/seccomp/coffer.json", "below the kubelet's folder"),
            ("--seccomp-profile=../coffer.json", "without `..`"),
            ("--seccomp-profile=", "below the kubelet's folder"),
            ("--container-env=A", "takes NAME=VALUE"),
            ("--container-env=1A=b", "the name of letters"),
            ("--container-env=POD_NAME=x", "by its annotations"),
            ("--native-sidecars=yes", "always"),
            ("--image-pull-policy=sometimes", "IfNotPresent"),
        ] {
            let told = parse(&[argument]).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
    }
}

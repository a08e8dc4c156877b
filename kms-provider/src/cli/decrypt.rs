//! `coffer-kms decrypt`: an object out of what etcd holds, without an API server.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use coffer_kms::etcd::{DekSource, ExtractError, Format, KmsApi, Printed, extract};
use coffer_kms::metrics::ApiVersion;
use coffer_kms::{Kind, Trouble};
use coffer_runtime::Secret;
use coffer_runtime::process::Exit;

use super::Failed;
use super::flags::KeyFlags;
use super::reader::Reader;

/// Decrypt what etcd holds, without an API server
///
/// Reads what etcdctl prints, from a live etcd or from a snapshot that was restored, and prints the objects as
/// manifests for `kubectl apply`. Everything is printed in the clear.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Decrypt {
    /// What `etcdctl get KEY -w json` printed, or --print-value-only [default: standard input]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Where etcd has the value, such as /registry/secrets/NAMESPACE/NAME; in the JSON of etcdctl it stands
    #[arg(long, value_name = "KEY")]
    etcd_key: Option<String>,

    /// json: a manifest; raw: the bytes that were encrypted
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    output: FormatFlag,

    #[command(flatten)]
    keys: KeyFlags,
}

const EXAMPLE: &str = "\
One Secret, then all of them:
  etcdctl get /registry/secrets/prod/db -w json | coffer-kms decrypt --region eu-west-1
  etcdctl get /registry/secrets/ --prefix -w json | coffer-kms decrypt --region eu-west-1 > secrets.json

A manifest has the uid and the owners that the object had. Where another object of that name is there already,
or the owners are gone, take metadata.uid and metadata.ownerReferences out before it is applied.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatFlag {
    /// A manifest for `kubectl apply`
    Json,
    /// The bytes that were encrypted
    Raw,
}

impl Decrypt {
    pub(super) fn run(&self) -> Exit {
        self.start().map_or_else(Failed::exit, |()| Exit::Done)
    }

    fn start(&self) -> Result<(), Failed> {
        let mut printed = Printed::parse(self.input()?).map_err(|error| failed(&error.into()))?;
        if let Some(etcd_key) = &self.etcd_key {
            printed = printed.at(etcd_key).map_err(|error| failed(&error.into()))?;
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::at_run_time)?;
        runtime.block_on(self.decrypt(printed))
    }

    async fn decrypt(&self, printed: Printed) -> Result<(), Failed> {
        // What is not encrypted is to be had without AWS.
        let reader = match printed.needs_kms() {
            true => Some(Reader::new(&self.keys, printed.key_id().as_deref()).await?),
            false => None,
        };
        let read = async |source: DekSource<'_>| -> Result<Arc<Secret>, Trouble> {
            let (version, key_id) = match source.api {
                KmsApi::V1 => (ApiVersion::V1, None),
                KmsApi::V2 => (ApiVersion::V2, Some(source.key_id)),
            };
            match &reader {
                Some(reader) => reader.read(source.ciphertext, version, key_id).await,
                None => Err(Trouble::new(Kind::BadRequest, "no value seemed to need KMS")),
            }
        };
        let format = match self.output {
            FormatFlag::Json => Format::Json,
            FormatFlag::Raw => Format::Raw,
        };
        let mut output = io::stdout().lock();
        extract(printed, format, read, &mut output, &mut note).await.map_err(|error| failed(&error))
    }

    fn input(&self) -> Result<Secret, Failed> {
        let mut bytes = Vec::new();
        let (read, from) = match self.file.as_deref().filter(|file| file.as_os_str() != "-") {
            Some(file) => {
                (File::open(file).and_then(|mut file| file.read_to_end(&mut bytes)), file.display().to_string())
            }
            None if io::stdin().is_terminal() => {
                let text = "nothing to decrypt: name a file, or pipe in what `etcdctl get KEY -w json` prints";
                return Err(Failed::usage(text));
            }
            None => (io::stdin().lock().read_to_end(&mut bytes), "standard input".to_owned()),
        };
        match read {
            Ok(_) => Ok(Secret::new(bytes)),
            Err(error) => Err(Failed::usage(format!("cannot read {from}: {error}"))),
        }
    }
}

fn failed(error: &ExtractError) -> Failed {
    if error.is_usage() { Failed::usage(error) } else { Failed::at_run_time(error) }
}

fn note(text: &str) {
    let _ = writeln!(io::stderr(), "note: {text}");
}

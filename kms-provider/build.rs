//! Compiles the two protocols to Rust.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let protocols = protox::compile(["v1beta1.proto", "v2.proto"], ["proto"])?;
    // The client is for `doctor`.
    tonic_prost_build::configure().compile_fds(protocols)?;
    Ok(())
}

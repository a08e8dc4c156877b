//! Compiles the protocols to Rust.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let protocols = protox::compile(["csi.proto", "registration.proto", "provider.proto"], ["proto"])?;
    // The clients are for the tests, which stand in for the kubelet.
    tonic_prost_build::configure().skip_debug(["."]).compile_fds(protocols)?;
    Ok(())
}

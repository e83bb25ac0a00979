//! Developer verbs, run as `cargo xtask VERB`. Nothing that ships may depend on this crate.

mod bench;
mod chaos;
mod churn;
mod ci;
mod demo;
mod dist;
mod ebpf;
mod inside;
mod load;
mod machine;
mod manual;
mod memory;
mod packages;
mod plain;
mod progress;
mod release;
mod report;
mod screenshot;
mod steps;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer verbs of this repository.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start 100 web servers at once, in pooled networks and in networks made on demand.
    Demo(demo::DemoArguments),
    /// Run all tests; the privileged ones need root or sudo.
    Test(test::TestArguments),
    /// Run everything that a change must pass.
    Ci,
    /// Build the kernel programs, or check that the committed ones are what the source says.
    Ebpf {
        #[command(subcommand)]
        verb: ebpf::EbpfVerb,
    },
    /// Measure the product beside its peers and a floor in the same runs, and write a report: all of it, or the parts named.
    Bench(Box<bench::BenchArguments>),
    /// Kill and restart the daemon under load, and compare what it said with what there is.
    Chaos(chaos::ChaosArguments),
    /// Attach and detach under load and look for payloads that reach the wrong one.
    Churn(churn::ChurnArguments),
    /// Build a Debian package and a tarball of the release.
    Dist(dist::DistArguments),
    /// Draw the dashboard over a real pool under load, as a picture.
    Screenshot(screenshot::ScreenshotArguments),
    #[command(hide = true)]
    Inside {
        #[command(subcommand)]
        verb: inside::InsideVerb,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Ci => ci::run(),
        Verb::Ebpf { verb } => ebpf::run(verb),
        Verb::Bench(arguments) => bench::run(*arguments),
        Verb::Chaos(arguments) => chaos::run(&arguments),
        Verb::Churn(arguments) => churn::run(&arguments),
        Verb::Dist(arguments) => dist::run(&arguments),
        Verb::Screenshot(arguments) => screenshot::run(&arguments),
        Verb::Inside { verb } => inside::run(verb),
    }
}

//! Builds the program that proves, and becomes it. The demonstration does not need what it is
//! built of, and would have to wait for it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use lab::cargo::build;
use lab::{Error, Result};

use crate::step::Step;

pub async fn run(arguments: &[OsString]) -> Result<()> {
    let program = {
        let _step = Step::new("building the command");
        build(&["-p", "lab", "--features", "prove", "--bin", "lab-prove"]).await?
    };
    let error = Command::new(program).args(arguments).exec();
    Err(Error::because("cannot start the command", error))
}

//! What is built, once for all tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lab::tools::run;

use crate::pages::all_functions;
use crate::tool::{CARGO_LAMBDA, target, workspace};

/// The functions of template.yaml, with the program that each is.
pub const DEPLOYED: [(&str, &str); 6] = [
    ("ApiFunction", "http"),
    ("QueueFunction", "queue"),
    ("ScheduleFunction", "schedule"),
    ("HealthFunction", "health"),
    ("MigrationFunction", "migrate"),
    ("DoctorFunction", "doctor"),
];

/// What `sam build` makes of a function of template.yaml, for this machine, in the project
/// that docs/lambda.md leads to: see `pages.rs`.
pub fn deployed(function: &str) -> PathBuf {
    built_by(all_functions(), function)
}

/// What SAM has built of a function in a project.
pub fn built_by(project: &Path, function: &str) -> PathBuf {
    let built = project.join(".aws-sam/build");
    built.join(function).join("bootstrap")
}

/// The example that goes wrong on demand, as cargo-lambda builds it.
pub fn careless() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = target().join("tools/examples");
        lambda_build(&folder, &["--example", "careless"]);
        folder.join("careless/bootstrap")
    });
    built.clone()
}

/// `cargo lambda build --release`, in the folder of the functions.
pub fn lambda_build(folder: &Path, arguments: &[&str]) -> String {
    run(CARGO_LAMBDA
        .command()
        .args(["lambda", "build", "--release", "--lambda-dir"])
        .arg(folder)
        .args(arguments)
        .current_dir(workspace().join("functions")))
}

/// The field `e_machine` of an ELF file (`elf(5)`).
pub fn machine(path: &Path) -> u16 {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(&bytes[..4], b"\x7fELF", "{}", path.display());
    u16::from_le_bytes([bytes[18], bytes[19]])
}

//! Makes the default `application_name` from the function's name and version.

use super::Environment;

/// The length that PostgreSQL keeps (`NAMEDATALEN - 1`; manual, "Error Reporting and
/// Logging").
const LENGTH: usize = 63;

/// Returns function and version, as the host names them; `None` where it does not.
///
/// Lambda: `AWS_LAMBDA_FUNCTION_NAME` and `_VERSION` (its documents, "Defined runtime
/// environment variables"). Vercel: the repository or else the project, the
/// environment, and the commit or else the deployment (its documents, "System
/// environment variables"); it runs on Lambda, whose variables mean nothing there.
pub(super) fn name(environment: &Environment) -> Option<String> {
    let first = |names: &[&str]| names.iter().find_map(|name| environment.get(name));
    let on_vercel = first(&["VERCEL", "VERCEL_ENV", "VERCEL_URL"]).is_some();
    let (name, version) = if on_vercel {
        let project = first(&["VERCEL_GIT_REPO_SLUG", "VERCEL_PROJECT_ID"]);
        let project = project.unwrap_or_else(|| "vercel".to_owned());
        let commit = environment.get("VERCEL_GIT_COMMIT_SHA");
        let commit = commit.map(|commit| commit.chars().take(7).collect());
        let version = commit.or(environment.get("VERCEL_DEPLOYMENT_ID"));
        let name = match environment.get("VERCEL_ENV") {
            Some(environment) => format!("{project}@{environment}"),
            None => project,
        };
        (name, version)
    } else {
        let name = environment.get("AWS_LAMBDA_FUNCTION_NAME")?;
        (name, environment.get("AWS_LAMBDA_FUNCTION_VERSION"))
    };
    Some(fitted(&name, version.as_deref()))
}

/// `name:version` in printable ASCII; when it is too long, the version stays.
fn fitted(name: &str, version: Option<&str>) -> String {
    let version = version.map(|version| format!(":{}", printable(version)));
    let mut version = version.unwrap_or_default();
    version.truncate(LENGTH / 2);
    let mut name = printable(name);
    name.truncate(LENGTH - version.len());
    name + &version
}

fn printable(text: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_name_holds_the_version() {
        let long = "f".repeat(64);
        for (variables, expected) in [
            (&[][..], None),
            (&[("AWS_LAMBDA_FUNCTION_NAME", "shop")], Some("shop".into())),
            (
                &[
                    ("AWS_LAMBDA_FUNCTION_NAME", "shop"),
                    ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ],
                Some("shop:$LATEST".into()),
            ),
            (
                &[
                    ("AWS_LAMBDA_FUNCTION_NAME", long.as_str()),
                    ("AWS_LAMBDA_FUNCTION_VERSION", "17"),
                ],
                Some(format!("{}:17", "f".repeat(60))),
            ),
            (
                &[("AWS_LAMBDA_FUNCTION_NAME", "l\u{e4}den\n1")],
                Some("l?den?1".into()),
            ),
            (
                &[
                    ("VERCEL", "1"),
                    ("VERCEL_ENV", "preview"),
                    ("VERCEL_GIT_REPO_SLUG", "shop"),
                    ("VERCEL_GIT_COMMIT_SHA", "0123456789abcdef"),
                    ("AWS_LAMBDA_FUNCTION_NAME", "x"),
                ],
                Some("shop@preview:0123456".into()),
            ),
            (
                &[
                    ("VERCEL", "1"),
                    ("VERCEL_PROJECT_ID", "prj_1"),
                    ("VERCEL_DEPLOYMENT_ID", "dpl_2"),
                ],
                Some("prj_1:dpl_2".into()),
            ),
            (&[("VERCEL", "1")], Some("vercel".into())),
        ] {
            let found = name(&Environment::of(variables));
            assert_eq!(found, expected);
            assert!(found.is_none_or(|name| name.len() <= LENGTH));
        }
    }
}

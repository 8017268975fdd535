//! Every `CASE` of the C fixtures in `guests/c`, natively and then inside.

use std::process::ExitCode;

fn main() -> ExitCode {
    match coracle_testkit::fixtures() {
        Ok(cases) => coracle_testkit::run(cases),
        Err(error) => {
            eprintln!("fixtures: {error}");
            ExitCode::FAILURE
        }
    }
}

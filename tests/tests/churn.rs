//! Attachments come and go under load. `cargo xtask churn` runs the same for as long as one likes.

use std::time::Duration;

use anyhow::Result;

const SPAN: Duration = Duration::from_secs(10);

#[test]
fn no_payload_reaches_another_attachment_while_they_come_and_go() -> Result<()> {
    let churn = pcpm_tests::churn(SPAN)?;
    println!("{churn:#?}");
    assert_eq!(churn.violations, 0, "{:#?}", churn.told);
    assert!(churn.attachments >= 400, "{churn:?}");
    for count in churn.datagrams.iter().chain(&churn.connections) {
        assert!(*count >= 50, "{churn:?}");
    }
    Ok(())
}

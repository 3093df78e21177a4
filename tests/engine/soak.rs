//! A little of what `cargo xtask soak` does for long.

use batch_suite::{is_leak_check, soak::soak};

use crate::watched;

#[test]
fn everything_at_once() {
    watched(|| {
        let requests = if is_leak_check() { 40 } else { 300 };
        let report = soak(requests, 1, |_| ());
        println!("{report}");
        assert!(report.lost == 0 && report.duplicated == 0 && report.wrong == 0, "{report}");
        assert_eq!(report.requests, requests);
        assert_eq!(report.completed + report.cancelled + report.failed, requests, "{report}");
        // It is not by chance that all went well.
        assert!(report.cancelled > 0 && report.fallbacks > 0 && report.prefix_hits > 0, "{report}");
        assert!(report.compared_tokens > requests, "{report}");
        let json: serde_json::Value = serde_json::from_str(&report.to_string()).unwrap();
        assert_eq!(json["requests"], requests);
    });
}

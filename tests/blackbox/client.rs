//! The clients that the program carries; `tests/clients/run` runs them.

use crate::harness::{Setup, Wire, program};

#[test]
fn a_client_is_handed_out_by_the_service_and_by_the_command_alike() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    for (language, file) in [("python", "online_learning.py"), ("typescript", "online_learning.ts")]
    {
        let path = format!("/client/{file}");
        let served = service.get(&path);
        assert_eq!((served.status, served.header("cache-control")), (200, Some("no-cache")));
        let printed = program().args(["client", language]).output().expect("it can be run");
        assert!(printed.status.success(), "{printed:?}");
        assert_eq!(String::from_utf8_lossy(&printed.stdout), served.body.as_str(), "{language}");
        // Whoever has it already is spared its text.
        let tag = served.header("etag").expect("it has an entity tag");
        for (tags, status) in [(tag, 304), ("\"older\"", 200)] {
            let mut wire = Wire::open(service.address).expect("it listens");
            let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nif-none-match: {tags}");
            wire.send(format!("{head}\r\nconnection: close\r\n\r\n")).expect("it reads");
            let answer = wire.answer().expect("it answers");
            assert_eq!((answer.status, answer.body.is_empty()), (status, status == 304));
            assert_eq!(answer.header("etag"), Some(tag));
        }
    }
    assert_eq!(service.get("/client/online_learning.rs").status, 404);
    let refused = program().args(["client", "cobol"]).output().expect("it can be run");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    service.stop();
}

//! The table and its helpers.

use super::*;

#[test]
fn the_table_is_consistent() {
    let mut names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    names.extend(COMMANDS.iter().filter_map(|command| command.alias));
    names.sort_unstable();
    assert!(names.is_sorted_by(|a, b| a < b), "each name once: {names:?}");
    for Command { name, arguments, summary, least, most, .. } in COMMANDS {
        assert!(least <= most && !summary.is_empty(), "{name}");
        assert_eq!(*most > 0, !arguments.is_empty(), "{name}");
        assert_eq!(*least == 0, arguments.is_empty() || arguments.starts_with('['), "{name}");
    }
    for name in ["position", "stopat", "r", "phys", "virt", "help", "halt_delay"] {
        assert!(find(name).is_some(), "the product of 2007 had {name}");
    }
}

#[test]
fn numbers_and_addresses() {
    assert_eq!((number("12"), number("0x12"), number("")), (Some(12), Some(18), None));
    assert_eq!((number("12a"), number("-1"), number("0x")), (None, None, None));
    assert_eq!(address("ffffffff81000000"), Ok(0xffff_ffff_8100_0000));
    assert_eq!(address("10"), Ok(10));
    assert!(address("$rsp").is_err());
}

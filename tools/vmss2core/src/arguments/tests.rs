//! Command lines, as the product took them and as we do.

use super::*;

fn parse(line: &str) -> Result<Command, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Command::parse(&words)
}

fn kind(line: &str) -> Kind {
    match parse(line) {
        Ok(Command::Convert(request)) => request.kind,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_products_command_lines() {
    assert_eq!(parse(""), Ok(Command::Help));
    let linux = LinuxOptions::default();
    let windows = WindowsOptions::default();
    let at = |address| Some(Gva(address));
    for (line, expected) in [
        ("x.vmss", Kind::Linear(None)),
        ("-q x.vmss", Kind::Linear(None)),
        ("-U 3 x.vmss", Kind::Linear(Some(3))),
        ("-U3 x.vmss", Kind::Linear(Some(3))),
        ("-M x.vmss", Kind::Physical),
        ("-N x.vmss y.vmem", Kind::Linux(linux.clone())),
        ("-N4 x.vmss", Kind::Linux(LinuxOptions { series: Some(Series::Two4), ..linux.clone() })),
        ("-N6 x.vmss", Kind::Linux(LinuxOptions { series: Some(Series::Two6), ..linux.clone() })),
        (
            "-N -O 1f000000 x",
            Kind::Linux(LinuxOptions { slide: Some(0x1f00_0000), ..linux.clone() }),
        ),
        ("-P x.vmss", Kind::Processes(linux.clone())),
        ("-P12 x.vmss", Kind::Process(12, linux.clone())),
        ("-W x.vmss", Kind::Windows(windows.clone())),
        ("-W7601 x.vmss", Kind::Windows(WindowsOptions { build: Some(7601), ..windows.clone() })),
        ("-W8 x.vmss", Kind::Windows(WindowsOptions { is_encoded: true, ..windows.clone() })),
        ("-WK x.vmss", Kind::Windows(WindowsOptions { kernel_only: true, ..windows.clone() })),
        (
            "-W8DDBfffff80002a0 x",
            Kind::Windows(WindowsOptions {
                is_encoded: true,
                debugger_data: at(0xffff_f800_02a0),
                ..windows.clone()
            }),
        ),
        ("-WSCAN x.vmss", Kind::Windows(WindowsOptions { scan_all: true, ..windows.clone() })),
        ("-F x.vmss", Kind::Firmware(None)),
        ("-F7f00 x.vmss", Kind::Firmware(at(0x7f00))),
    ] {
        assert_eq!(kind(line), expected, "{line}");
    }
    let offsets = "-l 0x20614,0x80,0,0x68,0x194,0xa4,0x1b0,0x24,0x18,0x28,0x2000,0xc4,0xec,0x10";
    let line = format!("-N {offsets} x.vmss");
    assert!(matches!(kind(&line), Kind::Linux(LinuxOptions { offsets: Some(_), .. })));
    let Kind::MacOs(options) = kind("-X64 mach_kernel x.vmss") else { panic!("-X64") };
    assert!(options.is_64 && options.kernel.as_os_str() == "mach_kernel");
}

#[test]
fn long_forms() {
    assert_eq!(kind("--physical x"), kind("-M x"));
    assert_eq!(kind("--vcpu=3 x"), kind("-U 3 x"));
    assert_eq!(kind("--process 7 x"), kind("-P7 x"));
    assert_eq!(kind("--firmware=0x7f00 x"), kind("-F7f00 x"));
    assert_eq!(kind("--linux-2.4 x"), kind("-N4 x"));
    assert_eq!(kind("--windows-8 x"), kind("-W8 x"));
    assert_eq!(kind("--macos-64 kernel x"), kind("-X64 kernel x"));
    let Kind::Auto(linux, windows) = kind("--auto --kdump --bitmap x") else { panic!("--auto") };
    assert!(linux.kdump.is_some() && windows.bitmap);
    assert_eq!(kind("--debugger-data=0xfffff800`1234 -WK x"), kind("-WK -WDDBfffff8001234 x"));
    let Kind::Linux(options) = kind("--compress zstd x") else { panic!("--compress") };
    assert_eq!(options.kdump, Some(Compression::Zstd));
    let Ok(Command::Convert(request)) = parse("--threads 3 -o out -q --json a b") else {
        panic!("all of them")
    };
    assert_eq!(request.threads.map(NonZero::get), Some(3));
    assert_eq!((request.output, request.memory), (Some("out".into()), Some("b".into())));
    assert!(request.quiet && request.json);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, sentence) in [
        ("-S32 x", "-S32: cores of Solaris guests are not supported"),
        ("-Q x", "there is no option -Q"),
        ("-U x.vmss", "-U wants the number of a processor, and that is not x.vmss"),
        ("-M", "no checkpoint is named"),
        ("a b c", "c: one checkpoint and its memory are enough"),
        ("dump", "dump wants one checkpoint"),
        ("-M -N x", "-M and -N ask for different things; say one"),
        ("-O 12 x", "-l, -O and --without-free go with -N or -P"),
        ("-Wten x", "-W wants a build number, and that is not ten"),
        ("--threads 0 x", "--threads wants a number from 1 to 256, and that is not 0"),
        ("--threads 5000 x", "--threads wants a number from 1 to 256, and that is not 5000"),
        ("--kdump=zstd x", "--kdump takes no value"),
        ("--quiet=no x", "--quiet takes no value"),
        ("-N -l 0x20614,mm x", "field 2 of linuxoffsets, `mm`, is not a hexadecimal number: `mm`"),
    ] {
        assert_eq!(parse(line).unwrap_err(), sentence, "{line}");
    }
}

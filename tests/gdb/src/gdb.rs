//! The real gdb, as a child in batch mode, and a socket for it.

use dejavm_stub::{Ended, Options, Session, State, Target, interrupts};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;

/// Serves one client; how it ended, `None` if the connection did.
pub fn serve(stream: TcpStream, target: &mut dyn Target, options: Options) -> Option<Ended> {
    let arrived = Rc::new(RefCell::new((Vec::new(), true)));
    let (mut reader, mut writer) = (&stream, &stream);
    let interrupted = {
        let arrived = Rc::clone(&arrived);
        let stream = stream.try_clone().expect("a socket can be shared");
        move || {
            let (bytes, open) = &mut *arrived.borrow_mut();
            stream.set_nonblocking(true).expect("a socket can be asked not to wait");
            let mut buffer = [0; 4096];
            match (&stream).read(&mut buffer) {
                Ok(0) => *open = false,
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => *open = false,
            }
            stream.set_nonblocking(false).expect("a socket can be asked to wait");
            !*open || interrupts(bytes)
        }
    };
    let mut session = Session::new(target, Box::new(interrupted), options);
    loop {
        writer.write_all(&session.take_output()).ok()?;
        match session.state() {
            State::Ended(ended) => return Some(ended),
            State::Work => session.work(),
            State::Input => {
                let mut bytes = std::mem::take(&mut arrived.borrow_mut().0);
                if bytes.is_empty() {
                    bytes.resize(4096, 0);
                    let length = reader.read(&mut bytes).ok().filter(|length| *length > 0)?;
                    bytes.truncate(length);
                }
                session.receive(&bytes);
            }
        }
    }
}

/// Serves one client, which `converse` makes connect to the port that it is given; what that returns.
pub fn serve_while<T: Send + 'static>(
    target: &mut dyn Target,
    converse: impl FnOnce(u16) -> T + Send + 'static,
) -> T {
    /// A client for who waits for one, should there have been none.
    struct Connects(u16);
    impl Drop for Connects {
        fn drop(&mut self) {
            let _ = TcpStream::connect(("127.0.0.1", self.0));
        }
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("its number").port();
    let conversation = std::thread::spawn(move || {
        let _connects = Connects(port);
        converse(port)
    });
    let (stream, _) = listener.accept().expect("a client");
    drop(listener);
    stream.set_nodelay(true).expect("small packets");
    serve(stream, target, Options::default());
    conversation.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A run of gdb.
pub struct Gdb {
    image: Option<PathBuf>,
    before: Vec<String>,
    options: Options,
}

impl Gdb {
    /// With the symbols of one of our guests.
    pub fn with_symbols(name: &str, image: &[u8]) -> Gdb {
        let folder = std::env::temp_dir().join(format!("dejavm-gdb-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the guest");
        let path = folder.join(format!("{name}.elf"));
        std::fs::write(&path, image).expect("a file of the guest");
        Gdb { image: Some(path), ..Gdb::plain() }
    }

    /// Without symbols.
    pub fn plain() -> Gdb {
        Gdb { image: None, before: Vec::new(), options: Options::default() }
    }

    /// A command to give before it connects.
    pub fn before(mut self, command: &str) -> Gdb {
        self.before.push(command.to_owned());
        self
    }

    /// Connects to `target`, gives the commands, and returns what gdb printed, both streams.
    pub fn run(&self, target: &mut dyn Target, commands: &[&str]) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let mut gdb = Command::new("gdb");
        gdb.args(["-batch", "-nx"]);
        let settings =
            ["set confirm off", "set pagination off", "set width 0", "set debuginfod enabled off"];
        let connect = format!("target remote 127.0.0.1:{port}");
        let before = self.before.iter().map(String::as_str);
        for command in settings.into_iter().chain(before).chain([connect.as_str()]) {
            gdb.args(["-ex", command]);
        }
        for command in commands {
            gdb.args(["-ex", &format!("echo \\n(gdb) {command}\\n"), "-ex", command]);
        }
        if let Some(image) = &self.image {
            gdb.arg(image);
        }
        // One pipe for both streams keeps their order.
        let (mut output, writer) = std::io::pipe().expect("a pipe");
        let second = writer.try_clone().expect("its other end");
        gdb.stdin(Stdio::null()).stdout(writer).stderr(second);
        let mut child = gdb.spawn().expect("gdb is installed: `make deps`");
        drop(gdb);
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            output.read_to_end(&mut text).map(|_| text)
        });
        let (stream, _) = listener.accept().expect("gdb connects");
        stream.set_nodelay(true).expect("small packets");
        serve(stream, target, self.options.clone());
        let text = reader.join().expect("no panic").expect("a pipe can be read");
        child.wait().expect("gdb ends");
        String::from_utf8_lossy(&text).into_owned()
    }
}

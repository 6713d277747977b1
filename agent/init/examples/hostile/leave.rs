//! Tasks that leave things behind: files, IPC objects, sockets.

use crate::{mount_points, stay};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt, symlink},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// Files, directories, links, modes, times and attributes, in and on every directory that there is.
pub(crate) fn write_everywhere() {
    let mut dirs: Vec<PathBuf> = mount_points().into_iter().map(PathBuf::from).collect();
    dirs.extend(["/dev/pts", "/etc", "/root", "/var/tmp", "/sbin", "/usr/bin"].map(PathBuf::from));
    let mut next = 0;
    while next < dirs.len().min(5_000) {
        let dir = dirs[next].clone();
        next += 1;
        deface(&dir);
        if dir.starts_with("/proc") || dir.starts_with("/sys") {
            continue;
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(path),
                Ok(kind) if kind.is_file() => deface(&path),
                // A device: its times may be had by writing to it.
                Ok(kind) if kind.is_char_device() => drop(OpenOptions::new().append(true).open(&path)),
                _ => {}
            }
        }
    }
}

fn deface(path: &Path) {
    let _ = fs::write(path.join("hostile"), "was here");
    let _ = fs::create_dir_all(path.join("hostile.d/inner"));
    let _ = symlink("/etc/passwd", path.join("hostile.link"));
    if let Ok(mut file) = OpenOptions::new().append(true).open(path) {
        let _ = file.write_all(b"was here");
    }
    let _ = fs::set_permissions(path, Permissions::from_mode(0o777));
    let Ok(text) = CString::new(path.as_os_str().as_encoded_bytes()) else { return };
    let old = libc::timeval { tv_sec: 1, tv_usec: 1 };
    // SAFETY: strings, a buffer of the length that is told, and an array of two times.
    unsafe {
        libc::setxattr(text.as_ptr(), c"user.hostile".as_ptr(), c"x".as_ptr().cast(), 1, 0);
        libc::utimes(text.as_ptr(), [old, old].as_ptr());
        libc::mknod(c"/tmp/hostile.fifo".as_ptr(), libc::S_IFIFO | 0o666, 0);
    }
}

/// Every byte of every tmpfs.
pub(crate) fn full_tmpfs() {
    let block = vec![1_u8; 1 << 20];
    for point in mount_points() {
        if let Ok(mut file) = File::create(Path::new(&point).join("full")) {
            for size in [1 << 20, 4096, 1] {
                while file.write(&block[..size]).is_ok_and(|count| count > 0) {}
            }
        }
    }
}

/// Many files and hard links.
pub(crate) fn many_files() {
    for point in mount_points() {
        let dir = Path::new(&point).join("many");
        if fs::create_dir(&dir).is_err() {
            continue;
        }
        for number in 0..4_000 {
            if File::create(dir.join(number.to_string())).is_err() {
                break;
            }
            let _ = fs::hard_link(dir.join(number.to_string()), dir.join(format!("{number}.link")));
        }
    }
}

/// Directories in directories, longer than a path may be, that nobody may enter.
pub(crate) fn deep_and_locked() {
    for point in mount_points() {
        let top = Path::new(&point).join("deep");
        if fs::create_dir(&top).is_err() || std::env::set_current_dir(&top).is_err() {
            continue;
        }
        let mut depth = 0;
        while depth < 2_000 && fs::create_dir("deeper-and-deeper").is_ok() {
            let _ = File::create("file");
            if std::env::set_current_dir("deeper-and-deeper").is_err() {
                break;
            }
            let _ = fs::set_permissions("..", Permissions::from_mode(0o000));
            depth += 1;
        }
        let _ = fs::set_permissions(&top, Permissions::from_mode(0o000));
    }
}

/// Shared memory, semaphores with undo, and a queue with a message.
pub(crate) fn system_v_ipc() {
    for key in 1..20 {
        // SAFETY: makes objects; the addresses are of live values with the length that is told.
        unsafe {
            let memory = libc::shmget(key, 65_536, libc::IPC_CREAT | 0o600);
            libc::shmat(memory, std::ptr::null(), 0);
            libc::semget(key, 5, libc::IPC_CREAT);
            let queue = libc::msgget(key, libc::IPC_CREAT | 0o200);
            let message = [1_u64; 8];
            libc::msgsnd(queue, message.as_ptr().cast(), 56, libc::IPC_NOWAIT);
        }
    }
}

/// Shared memory and message queues with names.
pub(crate) fn posix_ipc() {
    for number in 0..8 {
        let _ = fs::write(format!("/dev/shm/sem.{number}"), [0; 32]);
        let _ = fs::write(format!("/dev/shm/memory.{number}"), vec![1; 10_000]);
        let Ok(name) = CString::new(format!("/queue.{number}")) else { continue };
        // SAFETY: a string, a mode, and no attributes.
        unsafe {
            let queue = libc::mq_open(
                name.as_ptr(),
                libc::O_CREAT | libc::O_RDWR,
                0o600,
                std::ptr::null::<libc::mq_attr>(),
            );
            libc::mq_send(queue, c"hello".as_ptr(), 5, 0);
        }
    }
}

/// Ports and names that a daemon holds.
pub(crate) fn bound_ports() {
    let tcp: Vec<_> = (7000..7020).filter_map(|port| TcpListener::bind(("0.0.0.0", port)).ok()).collect();
    let tcp6: Vec<_> = (7020..7040).filter_map(|port| TcpListener::bind(("::", port)).ok()).collect();
    let udp: Vec<_> = (7000..7020).filter_map(|port| UdpSocket::bind(("0.0.0.0", port)).ok()).collect();
    let _ = fs::create_dir("/tmp/sockets");
    let unix = UnixListener::bind("/tmp/sockets/one");
    for socket in &tcp {
        // SAFETY: takes a number; so the daemon inherits it.
        unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, 0) };
    }
    stay::daemon();
    drop((tcp, tcp6, udp, unix));
}

/// A connection that was closed first from here, and one with bytes that nobody has read.
pub(crate) fn time_wait() {
    let Ok(listener) = TcpListener::bind("127.0.0.1:7100") else { return };
    for _ in 0..3 {
        let Ok(mut client) = TcpStream::connect("127.0.0.1:7100") else { return };
        let Ok((mut server, _)) = listener.accept() else { return };
        let _ = client.write_all(b"bye");
        let _ = client.shutdown(std::net::Shutdown::Write);
        let _ = server.read_to_end(&mut Vec::new());
        drop(server);
        let _ = client.read_to_end(&mut Vec::new());
    }
}

/// Sockets that are sent through each other, so that no process holds them.
pub(crate) fn flying_sockets() {
    for _ in 0..50 {
        let Ok((one, other)) = UnixStream::pair() else { return };
        let fds = [one.as_raw_fd(), other.as_raw_fd()];
        let mut control = [0_u64; 8];
        let mut byte = [1_u8];
        let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        // SAFETY: the message's parts are live values of the lengths that are told; the control buffer is aligned, and
        // has room for two descriptors.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut vector;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(8) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(8) as usize;
            libc::CMSG_DATA(header).cast::<[i32; 2]>().write_unaligned(fds);
            libc::sendmsg(fds[0], &raw const message, 0);
            libc::sendmsg(fds[1], &raw const message, 0);
        }
    }
}

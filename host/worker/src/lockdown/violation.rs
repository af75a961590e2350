//! The last words of a process that makes a forbidden system call.
//!
//! 1. The kernel does not make the call, and sends SIGSYS to the thread.
//! 2. The handler writes the call's name to standard error, which the host keeps.
//! 3. It makes a forbidden call itself. SIGSYS is blocked while its handler runs, so the kernel ends the process by SIGSYS.
//!
//! Whoever has taken the process over can block SIGSYS before, and then dies without a name. Nobody can take the handler
//! away: the filter forbids that call.
#![expect(unsafe_code, reason = "a signal handler cannot be set, nor its argument read, without")]

use std::io;
use std::mem;
use std::ptr;

use sandgate_wire::launch::FORBIDDEN_CALL;
use syscalls::Sysno;

/// Where `siginfo_t` has the code: after two numbers.
const CODE_OFFSET: usize = 8;
/// The code of a SIGSYS that a filter sent.
const SYS_SECCOMP: i32 = 1;

/// Where `siginfo_t` has the number of the call: after three numbers, their padding and an address.
const SYSCALL_OFFSET: usize = 24;

/// Has a forbidden call name itself.
pub(super) fn report_before_death() -> io::Result<()> {
    // SAFETY: all-zero bytes are a `sigaction`: an empty mask, no flags, the default action.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_violation as *const () as usize;
    // On the thread's alternative stack: what made the call may have moved the stack pointer anywhere.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is a complete `sigaction` whose handler has the signature that SA_SIGINFO asks for. The handler does
    // what is allowed in one: it calls `write` and makes another system call, and uses its own stack alone.
    let set = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

extern "C" fn on_violation(_signal: i32, info: *const libc::siginfo_t, _context: *mut libc::c_void) {
    let info = info.cast::<u8>();
    // SAFETY: the kernel passes a whole `siginfo_t`, 128 bytes, and on every 64-bit architecture the code and, for a SIGSYS
    // of seccomp, the call's number stand at these places, aligned. For a SIGSYS of anybody else it is another number.
    let (code, number) =
        unsafe { (info.add(CODE_OFFSET).cast::<i32>().read(), info.add(SYSCALL_OFFSET).cast::<i32>().read()) };
    let mut words = Words::default();
    if code == SYS_SECCOMP {
        words.push(FORBIDDEN_CALL.as_bytes());
        match usize::try_from(number).ok().and_then(Sysno::new) {
            Some(call) => words.push(call.name().as_bytes()),
            None => words.push_number(number),
        }
        words.push(b"`\n");
    }
    let (bytes, length) = words.get();
    // SAFETY: `write` reads `length` initialised bytes of a local array. The second call is forbidden by the filter, takes
    // no arguments and returns to nobody: the process has ended.
    unsafe {
        libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), length);
        libc::syscall(libc::SYS_getppid);
        libc::_exit(libc::SIGSYS)
    }
}

/// A text that is put together without an allocation.
struct Words {
    bytes: [u8; 96],
    length: usize,
}

impl Default for Words {
    fn default() -> Words {
        Words { bytes: [0; 96], length: 0 }
    }
}

impl Words {
    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn push_number(&mut self, number: i32) {
        let mut divisor = 1_000_000_000;
        let number = number.unsigned_abs();
        while divisor > 1 && number / divisor == 0 {
            divisor /= 10;
        }
        while divisor > 0 {
            let digit = u8::try_from(number / divisor % 10).unwrap_or(0);
            self.push(&[b'0' + digit]);
            divisor /= 10;
        }
    }

    fn get(&self) -> (&[u8], usize) {
        (&self.bytes[..self.length], self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_put_together_and_never_too_long() {
        let mut words = Words::default();
        words.push(b"call ");
        words.push_number(4096);
        words.push_number(0);
        assert_eq!(words.get().0, b"call 40960");
        words.push(&[b'x'; 200]);
        assert_eq!(words.get().1, 96);
    }
}

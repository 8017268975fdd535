//! The registers of a thread: where it stands, and what it goes on with.

use coracle_abi::Errno;
use coracle_abi::port::{action, kind, word};
use coracle_platform::{Fault, Gone, Space, Trap};

use super::super::frame;
use super::super::ports::Port;
use super::{At, SeccompThread};

impl SeccompThread {
    /// Makes sure there is a frame (or that the thread is at its start). Only handlers take all orders.
    pub(super) fn enter_handler(&mut self) -> Result<(), Gone> {
        if !matches!(self.at, At::Fast) {
            return Ok(());
        }
        self.staging.flush(&self.port, &self.worker);
        // If the site is rewritten by another thread just now, the call comes by the fast path once more.
        for _ in 0..3 {
            self.reply(action::TRAP);
            match self.wait()? {
                kind::TRAP | kind::HOT_TRAP => return self.arrive_in_frame(),
                kind::FAST => {}
                _ => break,
            }
        }
        self.lied("did not come back by trap")
    }

    pub(super) fn arrive_in_frame(&mut self) -> Result<(), Gone> {
        match frame::locate(&self.port, self.address()) {
            Some(place) => {
                self.at = At::Frame(place);
                self.regs_loaded = false;
                Ok(())
            }
            None => self.lied("named no frame"),
        }
    }

    /// A thread that trapped at a site which was rewritten meanwhile goes on in the trampoline.
    pub(super) fn leave_site(&self) {
        if let At::Frame(place) = self.at {
            let rip = frame::rip(&self.port, place);
            let goes_on = self.worker.sites.lock().to_trampoline(rip);
            if goes_on != rip {
                frame::set_rip(&self.port, place, goes_on);
            }
        }
    }

    pub(super) fn load_regs(&mut self) {
        if self.regs_loaded {
            return;
        }
        if let At::Frame(place) = self.at {
            self.regs = frame::read(&self.port, place);
            self.regs.fs_base = self.port.get64(word::FS_BASE);
            let gs = self.port.get64(word::GS_BASE);
            self.regs.gs_base = if gs == self.address() { 0 } else { gs };
            self.bases = (self.regs.fs_base, self.regs.gs_base);
            let site = self.worker.sites.lock().to_site(self.regs.rip);
            // RCX is the return address after a system call, as the program knows it.
            if self.in_call && self.regs.rcx == self.regs.rip {
                self.regs.rcx = site;
            }
            self.regs.rip = site;
        }
        self.regs_loaded = true;
    }

    /// Puts the registers in their place and says by which action the thread takes them.
    pub(super) fn store_regs(&mut self) -> u32 {
        if !self.regs_loaded {
            return action::CONTINUE;
        }
        let mut regs = self.regs.clone();
        let gs = if regs.gs_base == 0 { self.address() } else { regs.gs_base };
        match self.at {
            At::Frame(place) => {
                regs.rip = self.worker.sites.lock().to_trampoline(regs.rip);
                frame::write(&self.port, self.address(), place, &mut regs);
                if self.bases == (regs.fs_base, regs.gs_base) {
                    return action::CONTINUE;
                }
            }
            _ => {
                let start = frame::create(&self.port, self.address(), &mut regs, false);
                self.port.set64(word::START_FRAME, start);
            }
        }
        self.port.set64(word::FS_BASE, regs.fs_base);
        self.port.set64(word::GS_BASE, gs);
        action::CONTINUE_BASES
    }

    pub(super) fn fault(&mut self) -> Result<Trap, Gone> {
        let At::Frame(place) = self.at else { return self.lied("faulted without a frame") };
        let signal = self.port.get32(word::SIGNAL) as i32;
        let info = self.port.get64(word::INFO).wrapping_sub(self.address());
        if !Port::contains(info, 128) || !info.is_multiple_of(8) {
            return self.lied("faulted without a siginfo");
        }
        let code = self.port.get32(info as usize + 8) as i32;
        let address = self.port.get64(info as usize + 16);
        let (trap_number, error_code, _) = frame::exception(&self.port, place);
        self.load_regs();
        // A jump behind a `syscall` that is no longer there, or into one that is being replaced.
        if (signal == libc::SIGILL || signal == libc::SIGTRAP)
            && let Some(goes_on) = self.worker.sites.lock().inside(self.regs.rip)
        {
            self.regs.rip = goes_on;
            return Ok(Trap::Interrupted { call: None });
        }
        // Calls 335 and 336 (uretprobe, uprobe) bypass the filter: the host raises SIGILL behind the instruction.
        let mut before = [0; 2];
        if signal == libc::SIGILL
            && self.worker.read(self.regs.rip.wrapping_sub(2), &mut before) == 2
            && before == [0x0f, 0x05]
        {
            self.regs.rax = Errno::ENOSYS.to_ret();
            return Ok(Trap::Interrupted { call: None });
        }
        if !(1..=64).contains(&signal) {
            return self.lied("faulted with no signal");
        }
        Ok(Trap::Fault(Fault { signal, code, address, trap_number, error_code }))
    }

    /// Gets to where orders can be given: in a frame, or at the start.
    pub(super) fn freeze_for_order(&mut self) -> Result<(), Gone> {
        if std::mem::take(&mut self.owes) && self.wait()? != kind::DONE {
            return self.lied("did not carry out an order");
        }
        if matches!(self.at, At::Start { ready: false }) {
            if let Some(dock) = self.dock.take() {
                let docked = dock.arrive(&self.shared)?;
                if !self.shared.notifier.undock(docked, &[], 0) {
                    return Err(Gone);
                }
            }
            if self.wait()? != kind::READY {
                return self.lied("did not get ready");
            }
            self.at = At::Start { ready: true };
        }
        self.enter_handler()
    }
}

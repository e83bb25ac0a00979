//! What every object of kernel programs has to have once.

/// The licence that the kernel wants to see, the panic handler that the compiler wants, and on other targets a `main`
/// that says how to build the object `$name`: a plain `cargo build` of the workspace passes.
#[macro_export]
macro_rules! kernel_object {
    ($name:literal) => {
        /// The kernel offers some helpers to programs with a GPL-compatible licence only.
        #[cfg(target_arch = "bpf")]
        #[expect(unsafe_code, reason = "the kernel finds the licence by its section")]
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[cfg(target_arch = "bpf")]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! {
            // Never reached: the verifier would refuse the endless loop.
            loop {}
        }

        #[cfg(not(target_arch = "bpf"))]
        fn main() {
            eprintln!(
                "{} holds kernel programs: build them with `cargo xtask ebpf build`",
                $name
            );
            std::process::exit(1);
        }
    };
}

"""The machine under the numbers: its devices, allocator, arithmetic, clock and memory."""

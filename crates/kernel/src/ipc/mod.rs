//! Objects through which processes talk: pipes, event counters, epoll, sockets, System V and POSIX IPC.

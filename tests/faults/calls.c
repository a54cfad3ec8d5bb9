/* Every call of this process that changes files below one directory is an event, whoever makes it: Python, Rust or C.
 *
 * A seccomp filter turns those system calls into SIGSYS; the handler counts the event, and at the chosen one it kills
 * the process (before or after the call) or lets the call fail. All else is handed on to the kernel. The sixth argument
 * of a call that we hand on is MAGIC, which the filter lets pass (none of these calls has six).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define MAGIC 0x46415554L
enum { WRITE = 1, SYNC = 2, RENAME = 4, UNLINK = 8, CREATE = 16, CUT = 32 };
enum { COUNT, KILL_BEFORE, KILL_AFTER, FAIL_ONCE, FAIL_ON, REFUSE_OUTSIDE };

static const struct { long number; int kind; int path, descriptor, directory; } CALLS[] = {
    /* number, kind, argument that is the path, the descriptor, the directory of a relative path (-1: none) */
    {SYS_write, WRITE, -1, 0, -1}, {SYS_pwrite64, WRITE, -1, 0, -1}, {SYS_writev, WRITE, -1, 0, -1},
    {SYS_pwritev, WRITE, -1, 0, -1}, {SYS_fsync, SYNC, -1, 0, -1}, {SYS_fdatasync, SYNC, -1, 0, -1},
    {SYS_ftruncate, CUT, -1, 0, -1}, {SYS_openat, CREATE, 1, -1, 0}, {SYS_renameat2, RENAME, 3, -1, 2},
    {SYS_linkat, RENAME, 3, -1, 2}, {SYS_unlinkat, UNLINK, 1, -1, 0}, {SYS_mkdirat, CREATE, 1, -1, 0},
    {SYS_symlinkat, RENAME, 2, -1, 1},
#ifdef SYS_open
    {SYS_open, CREATE, 0, -1, -1}, {SYS_creat, CREATE, 0, -1, -1}, {SYS_rename, RENAME, 1, -1, -1},
    {SYS_link, RENAME, 1, -1, -1}, {SYS_unlink, UNLINK, 0, -1, -1}, {SYS_mkdir, CREATE, 0, -1, -1},
    {SYS_rmdir, UNLINK, 0, -1, -1}, {SYS_symlink, RENAME, 1, -1, -1},
#endif
#ifdef SYS_renameat
    {SYS_renameat, RENAME, 3, -1, 2},
#endif
};
#define N_CALLS ((int)(sizeof CALLS / sizeof *CALLS))

static struct { char root[4096]; size_t length; long at; int kinds, action, error, report; _Atomic long *events; } plan;

static int below_root(const char *path) {
    return plan.length && !strncmp(path, plan.root, plan.length) && (path[plan.length] == '/' || !path[plan.length]);
}

static int linked(const char *name, char *into) { /* what a link of /proc says */
    long n = syscall(SYS_readlinkat, AT_FDCWD, name, into, 4095, 0, MAGIC);
    into[n < 0 ? 0 : n] = 0;
    return n > 0;
}

static int full_path(int call, const long *arguments, char *path) {
    char name[64], base[4096];
    if (CALLS[call].descriptor >= 0) {
        snprintf(name, sizeof name, "/proc/self/fd/%d", (int)arguments[CALLS[call].descriptor]);
        return linked(name, path);
    }
    const char *given = (const char *)arguments[CALLS[call].path];
    int directory = CALLS[call].directory < 0 ? AT_FDCWD : (int)arguments[CALLS[call].directory];
    if (given[0] == '/') return snprintf(path, 4096, "%s", given) > 0;
    if (directory == AT_FDCWD) snprintf(name, sizeof name, "/proc/self/cwd");
    else snprintf(name, sizeof name, "/proc/self/fd/%d", directory);
    return linked(name, base) && snprintf(path, 4096, "%.2000s/%.2000s", base, given) > 0;
}

static const char *word(int kind) {
    return kind == WRITE ? "write" : kind == SYNC ? "sync" : kind == RENAME ? "rename" : kind == UNLINK ? "unlink"
           : kind == CREATE ? "create" : "truncate";
}

static void report(long number, int kind, const char *path) {
    char line[4200];
    const char *shown = below_root(path) ? path + plan.length : path;
    int n = snprintf(line, sizeof line, "%ld %s %s\n", number, word(kind), shown);
    if (plan.report >= 0) syscall(SYS_write, plan.report, line, (long)n, 0, 0, MAGIC);
}

static long handed_on(long number, const long *a) {
    long result = syscall(number, a[0], a[1], a[2], a[3], a[4], MAGIC);
    return result == -1 ? -errno : result;
}

static long handle(long number, const long *arguments) {
    char path[4100];
    for (int call = 0; call < N_CALLS; call++) {
        if (CALLS[call].number != number) continue;
        if (!(CALLS[call].kind & plan.kinds) || !full_path(call, arguments, path)) break;
        if (plan.action == REFUSE_OUTSIDE) {
            if (path[0] != '/' || below_root(path) || !strncmp(path, "/dev/", 5) || !strncmp(path, "/proc/", 6)) break;
            report(atomic_fetch_add(plan.events, 1) + 1, CALLS[call].kind, path);
            return -EACCES;
        }
        if (!below_root(path)) break;
        long event = atomic_fetch_add(plan.events, 1) + 1;
        int here = event == plan.at;
        if (here) report(event, CALLS[call].kind, path);
        if (here && plan.action == KILL_BEFORE) kill(getpid(), SIGKILL);
        if ((here && plan.action == FAIL_ONCE) || (plan.action == FAIL_ON && event >= plan.at && plan.at)) return -plan.error;
        long result = handed_on(number, arguments);
        if (here && plan.action == KILL_AFTER) kill(getpid(), SIGKILL);
        return result;
    }
    return handed_on(number, arguments);
}

static void on_call(int signal, siginfo_t *info, void *context) {
    (void)signal;
    int kept = errno;
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
#if defined(__x86_64__)
    greg_t *r = machine->gregs;
    long arguments[5] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8]};
    r[REG_RAX] = handle(info->si_syscall, arguments);
#elif defined(__aarch64__)
    long arguments[5];
    for (int i = 0; i < 5; i++) arguments[i] = machine->regs[i];
    machine->regs[0] = handle(info->si_syscall, arguments);
#else
#error "x86_64 and aarch64 only"
#endif
    errno = kept;
}

__attribute__((constructor)) static void answer_calls(void) { /* also in programs that inherit the filter */
    struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGSYS, &action, NULL);
}

static int install(void) {
    struct sock_filter code[8 + 4 * N_CALLS];
    int n = 0;
#define LOAD(field) (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
    code[n++] = LOAD(args[5]);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAGIC, 0, 1);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = LOAD(nr);
    for (int call = 0; call < N_CALLS; call++) {
        int flags = CALLS[call].number == SYS_openat ? 2 : -1; /* most files are opened to be read: let those pass */
#ifdef SYS_open
        if (CALLS[call].number == SYS_open) flags = 1;
#endif
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)CALLS[call].number, 0, flags < 0 ? 1 : 4);
        if (flags >= 0) {
            code[n++] = LOAD(args[flags]);
            code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT, 1, 0);
            code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        }
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)n, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

/* From now on count the calls of these kinds below `root`, and act at the `at`-th. `events` is a file of 8 bytes that
 * holds the count, `note` a file that gets one line: what the call was. Returns 0, or -1 with errno. */
int faults_arm(const char *root, int kinds, long at, int action, int error, const char *events, const char *note) {
    snprintf(plan.root, sizeof plan.root, "%s", root);
    plan.length = strlen(root);
    plan.kinds = kinds, plan.at = at, plan.action = action, plan.error = error;
    int file = open(events, O_RDWR | O_CREAT, 0644);
    if (file < 0 || ftruncate(file, 8)) return -1;
    plan.events = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (plan.events == MAP_FAILED) return -1;
    plan.report = open(note, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    return install();
}

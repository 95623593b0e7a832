/* Makes the disk of one process slow while a file exists: preloaded, it lets writes to files and their fsync wait. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define WRITE_MS 10
#define SYNC_MS 500

/* The function of the C library that is hidden by the one of the same name here. */
#define HIDDEN(name)                      \
    static __typeof__(name) *hidden;      \
    if (!hidden) hidden = dlsym(RTLD_NEXT, #name)

static void wait_if_slow(int fd, int milliseconds) {
    const char *flag = getenv("DRILL_SLOW_DISK");
    struct stat about;
    if (!flag || access(flag, F_OK) || fstat(fd, &about) || !S_ISREG(about.st_mode)) return;
    usleep(milliseconds * 1000);
}

ssize_t write(int fd, const void *from, size_t size) {
    HIDDEN(write);
    wait_if_slow(fd, WRITE_MS);
    return hidden(fd, from, size);
}

ssize_t writev(int fd, const struct iovec *from, int count) {
    HIDDEN(writev);
    wait_if_slow(fd, WRITE_MS);
    return hidden(fd, from, count);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    HIDDEN(pwrite64);
    wait_if_slow(fd, WRITE_MS);
    return hidden(fd, from, size, at);
}

int fsync(int fd) {
    HIDDEN(fsync);
    wait_if_slow(fd, SYNC_MS);
    return hidden(fd);
}

int fdatasync(int fd) {
    HIDDEN(fdatasync);
    wait_if_slow(fd, SYNC_MS);
    return hidden(fd);
}

// A single-producer, single-consumer ring as textbooks have it: power of two, acquire and release, each side keeps a
// copy of the other's index. Two threads of one process. Prints: records/s and sum of numbers, one at a time, then batched.
//
//     queue PRODUCER_CORE CONSUMER_CORE RECORDS BATCH SLOTS       (a core below 0: not pinned)
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <sched.h>
#include <thread>
#include <vector>

struct alignas(64) Record { int64_t number; int64_t rest[7]; };

class Queue {
public:
    explicit Queue(size_t slots) : slots_(slots), mask_(slots - 1) {}

    size_t push(const Record* records, size_t wanted) {
        const size_t tail = tail_.load(std::memory_order_relaxed);
        if (slots_.size() - (tail - head_seen_) < wanted) head_seen_ = head_.load(std::memory_order_acquire);
        const size_t count = std::min(wanted, slots_.size() - (tail - head_seen_));
        const size_t at = tail & mask_, before_end = std::min(count, slots_.size() - at);
        std::memcpy(&slots_[at], records, before_end * sizeof(Record));
        std::memcpy(&slots_[0], records + before_end, (count - before_end) * sizeof(Record));
        if (count) tail_.store(tail + count, std::memory_order_release);
        return count;
    }

    size_t pop(Record* records, size_t wanted) {
        const size_t head = head_.load(std::memory_order_relaxed);
        if (tail_seen_ - head < wanted) tail_seen_ = tail_.load(std::memory_order_acquire);
        const size_t count = std::min(wanted, tail_seen_ - head);
        const size_t at = head & mask_, before_end = std::min(count, slots_.size() - at);
        std::memcpy(records, &slots_[at], before_end * sizeof(Record));
        std::memcpy(records + before_end, &slots_[0], (count - before_end) * sizeof(Record));
        if (count) head_.store(head + count, std::memory_order_release);
        return count;
    }

    bool push_one(const Record& record) {
        const size_t tail = tail_.load(std::memory_order_relaxed);
        if (tail - head_seen_ == slots_.size() &&
            tail - (head_seen_ = head_.load(std::memory_order_acquire)) == slots_.size()) return false;
        slots_[tail & mask_] = record;
        tail_.store(tail + 1, std::memory_order_release);
        return true;
    }

    bool pop_one(Record& record) {
        const size_t head = head_.load(std::memory_order_relaxed);
        if (head == tail_seen_ && head == (tail_seen_ = tail_.load(std::memory_order_acquire))) return false;
        record = slots_[head & mask_];
        head_.store(head + 1, std::memory_order_release);
        return true;
    }

private:
    std::vector<Record> slots_;
    const size_t mask_;
    alignas(128) std::atomic<size_t> tail_{0};
    size_t head_seen_ = 0;
    alignas(128) std::atomic<size_t> head_{0};
    size_t tail_seen_ = 0;
    char after_[128] = {};
};

static void pin(int core) {
    if (core < 0) return;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
}

static bool measure(int producer_core, int consumer_core, int64_t records, size_t batch, size_t slots) {
    Queue queue(slots);
    std::vector<Record> out(batch), in(batch);
    std::atomic<bool> ready{false}, go{false};
    std::thread producer([&] {
        pin(producer_core);
        ready.store(true);
        while (!go.load()) std::this_thread::yield();
        for (int64_t number = 0; number < records;) {
            const size_t wanted = std::min<int64_t>(batch, records - number);
            for (size_t i = 0; i < wanted; i++) out[i].number = number + i;
            for (size_t done = 0, pushed; done < wanted; done += pushed) {
                pushed = batch == 1 ? queue.push_one(out[0]) : queue.push(&out[done], wanted - done);
                if (!pushed) std::this_thread::yield();
            }
            number += wanted;
        }
    });
    pin(consumer_core);
    while (!ready.load()) std::this_thread::yield();
    int64_t sum = 0;
    bool in_order = true;
    const auto began = std::chrono::steady_clock::now();
    go.store(true);
    for (int64_t number = 0; number < records;) {
        const size_t popped = batch == 1 ? queue.pop_one(in[0]) : queue.pop(in.data(), batch);
        if (!popped) std::this_thread::yield();
        for (size_t i = 0; i < popped; i++) {
            sum += in[i].number;
            in_order &= in[i].number == number + static_cast<int64_t>(i);
        }
        number += popped;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    producer.join();
    std::printf("%.0f %lld ", records / took.count(), static_cast<long long>(sum));
    return in_order;
}

int main(int count, char** words) {
    if (count != 6) return 2;
    const int producer = std::atoi(words[1]), consumer = std::atoi(words[2]);
    const int64_t records = std::atoll(words[3]);
    const size_t batch = std::atoll(words[4]), slots = std::atoll(words[5]);
    const bool singly = measure(producer, consumer, records, 1, slots);
    return singly && measure(producer, consumer, records, batch, slots) ? 0 : 1;
}

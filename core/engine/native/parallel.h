// Splits independent tasks over threads that are kept between calls.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace maskprune {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Helper threads of the process. A decoding step asks for them several times in a layer, so after each job they look for
// the next one for some ten microseconds before they sleep.
class Helpers {
 public:
  using Job = void (*)(void* context, int worker);

  // Not destroyed: its threads live as long as the process.
  static Helpers& shared() {
    static Helpers* helpers = new Helpers;
    return *helpers;
  }

  // Calls job(context, worker) on the calling thread, as worker 0, and on up to `threads` - 1 helpers that come before it
  // is done there, each with a worker below `threads` of its own. So the job must be complete when one worker returns, and a
  // helper that has no processor is not waited for. One call at a time: a second one, from another thread or from within a
  // job, runs alone.
  void run(int threads, Job job, void* context) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock() || threads < 2) return job(context, 0);
    for (; started_ < threads - 1; started_++) std::thread(&Helpers::work, this, round_.load()).detach();
    job_ = job;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    seats_.store(threads - 1, std::memory_order_release);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job(context, 0);
    const int taken = threads - 1 - seats_.exchange(0, std::memory_order_acq_rel);
    for (int spins = 0; done_.load(std::memory_order_acquire) < taken; spins++) {
      spins < kSpins ? relax() : std::this_thread::yield();
    }
  }

 private:
  static constexpr int kSpins = 2000;

  void work(uint64_t seen) {
    for (;;) {
      for (int spins = 0; spins < kSpins && round_.load(std::memory_order_acquire) == seen; spins++) relax();
      if (round_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
      }
      seen = round_.load(std::memory_order_acquire);
      // The number of the seat is the worker's. A job that is done has none left.
      int seat = seats_.load(std::memory_order_acquire);
      while (seat > 0 && !seats_.compare_exchange_weak(seat, seat - 1, std::memory_order_acq_rel)) {
      }
      if (seat == 0) continue;
      job_(context_, seat);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  std::mutex turn_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> seats_{0}, done_{0};
  int started_ = 0;
  Job job_ = nullptr;
  void* context_ = nullptr;
};

// Calls body(task, worker) for every task in [0, tasks), on at most `threads` threads; worker < threads names the thread,
// for scratch memory. Which thread takes which task is open, so a task must not add to what another one writes.
template <typename Body>
void parallelFor(long tasks, int threads, const Body& body) {
  struct Work {
    std::atomic<long> next{0};
    long tasks;
    const Body& body;
  } work{{0}, tasks, body};
  Helpers::shared().run(static_cast<int>(std::max(1L, std::min<long>(threads, tasks))), [](void* context, int worker) {
    auto& work = *static_cast<Work*>(context);
    for (long task = work.next++; task < work.tasks; task = work.next++) work.body(task, worker);
  }, &work);
}

// Scratch memory of each worker, not initialised.
class Scratch {
 public:
  Scratch(int workers, long floats) : floats_(floats), data_(new float[workers * floats]) {}
  float* of(int worker) { return data_.get() + worker * floats_; }

 private:
  long floats_;
  std::unique_ptr<float[]> data_;
};

}  // namespace maskprune

// Splits independent tasks over threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace maskprune {

// Calls body(task, worker) for every task in [0, tasks), on at most `threads` threads; worker < threads names the thread,
// for scratch memory. Which thread takes which task is open, so a task must not add to what another one writes.
template <typename Body>
void parallelFor(long tasks, int threads, const Body& body) {
  std::atomic<long> next{0};
  const auto work = [&](int worker) {
    for (long task = next++; task < tasks; task = next++) body(task, worker);
  };
  std::vector<std::thread> helpers;
  const long wanted = std::min<long>(threads, tasks);
  for (long i = 1; i < wanted; i++) helpers.emplace_back(work, static_cast<int>(i));
  work(0);
  for (auto& helper : helpers) helper.join();
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

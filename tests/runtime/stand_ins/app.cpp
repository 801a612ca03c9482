// app PLAN: runs the engine twice and prints what came out, or the error.
#include <cstdio>
#include <cstring>

#include "edgec_tensorrt.hpp"

extern "C" int stand_in_alive();
extern "C" int stand_in_copies();

int main(int count, char **arguments) {
  int status = 0;
  try {
    edgec::Engine engine(count > 1 ? arguments[1] : "");
    edgec::Session one(engine), two(engine);
    for (int turn = 1; turn <= 2; ++turn) {
      const float x[3] = {1.0f * turn, 2.0f, 3.5f};
      std::memcpy(one.input("x"), x, one.bytes("x"));
      one.run();
      const float *y = static_cast<const float *>(one.output("y"));
      std::printf("%g %g %g\n", y[0], y[1], y[2]);
    }
    two.start();
    two.wait();
    std::printf("zero copy %d, graph %d, copies %s\n", one.zero_copy(), one.graph(), stand_in_copies() ? "some" : "none");
    edgec::SessionOptions options;
    options.device_inputs = true;
    edgec::Session three(engine, options);
    const float x[3] = {5, 6, 7};
    std::memcpy(three.device("x"), x, sizeof x);  // as a kernel on three.stream() would
    three.run();
    std::printf("%g %d\n", static_cast<const float *>(three.output("y"))[2], three.stream() != one.stream());
    for (int wrong = 0; wrong < 2; ++wrong) try {
      if (wrong) three.input("x");
      one.input("y");
    } catch (const edgec::Error &error) {
      std::printf("%s\n", error.what());
    }
  } catch (const edgec::Error &error) {
    std::printf("error: %s\n", error.what());
    status = 1;
  }
  std::printf("alive %d\n", stand_in_alive());
  return status;
}

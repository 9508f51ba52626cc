// Serves a TorchScript file without Python. sandbox/cpp.py compiles it and talks to it.
//
//   serve FILE < socket
//
// Each line that it reads is a call, "ANEW GRADIENTS SEED NAME": ANEW is 1 to load the file first,
// GRADIENTS is 1 to record gradients. It reads the arguments from NAME.in, a pickled tuple, and
// writes one file:
//
//   NAME.out       the pair of what the call returned, and the arguments as it left them
//   NAME.raised    the text of an exception, of loading or of the call
//   NAME.unsent    why what it returned cannot be pickled
//
// Then it sends one byte through the socket, because what the file prints goes to stdout.
#include <sys/socket.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>

int main(int, char** argv) {
  torch::jit::Module module;
  bool anew, gradients;
  uint64_t seed;
  std::string name;
  while (std::cin >> anew >> gradients >> seed >> name) {
    std::string ending = ".raised", text;
    try {
      if (anew) module = torch::jit::load(argv[1], at::kCPU);
      std::ifstream file(name + ".in", std::ios::binary);
      const std::vector<char> given{std::istreambuf_iterator<char>(file), {}};
      const auto arguments = torch::jit::pickle_load(given).toTuple()->elements().vec();
      at::AutoGradMode mode(gradients);
      at::manual_seed(seed);
      const auto value = module.forward(arguments);
      ending = ".unsent";
      const auto left = c10::ivalue::Tuple::create(arguments);
      const auto pickled = torch::jit::pickle_save(c10::ivalue::Tuple::create({value, left}));
      text.assign(pickled.begin(), pickled.end());
      ending = ".out";
    } catch (const c10::Error& error) {
      text = error.what_without_backtrace();
    } catch (const std::exception& error) {
      text = error.what();
    }
    std::ofstream(name + ending, std::ios::binary) << text;
    send(0, "\n", 1, 0);
  }
}

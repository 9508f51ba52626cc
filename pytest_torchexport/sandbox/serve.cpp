// Serves a TorchScript file without Python. sandbox/cpp.py compiles it and talks to it.
//
//   serve FILE < socket
//
// It reads calls, "ANEW GRADIENTS SEED NAME COUNT KEYWORD...": ANEW is 1 to load the file first,
// GRADIENTS is 1 to record gradients. NAME.in holds the arguments, a pickled tuple; the last COUNT
// of them have keywords. It writes one file:
//
//   NAME.out       what the call returned and the tensors of the arguments as it left them, a pickled
//                  pair; the text of an exception if they cannot be pickled
//   NAME.raised    the text of an exception, of loading or of the call
//
// Then it sends one byte through the socket, because what the file prints goes to stdout.
#include <sys/socket.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>

int main(int, char** argv) {
  std::cout << std::unitbuf;  // what it prints is to outlive a crash
  torch::jit::Module module;
  bool anew, gradients;
  uint64_t seed;
  size_t count;
  std::string name;
  while (std::cin >> anew >> gradients >> seed >> name >> count) {
    std::vector<std::string> keywords(count);
    for (auto& keyword : keywords) std::cin >> keyword;
    std::string ending = ".raised", text;
    try {
      if (anew) module = torch::jit::load(argv[1], at::kCPU);
      std::ifstream file(name + ".in", std::ios::binary);
      const std::vector<char> given{std::istreambuf_iterator<char>(file), {}};
      const auto all = torch::jit::pickle_load(given).toTuple()->elements().vec();
      const auto named = all.end() - count;
      torch::jit::Kwargs by_keyword;
      for (size_t at = 0; at < count; ++at) by_keyword[keywords[at]] = named[at];
      c10::List<at::Tensor> left;  // those that it is given: the file may replace them in a dict
      for (const auto& argument : all)
        argument.visit([&](const c10::IValue& part) {
          if (part.isTensor()) left.push_back(part.toTensor());
          return false;
        });
      at::AutoGradMode mode(gradients);
      at::manual_seed(seed);
      const auto value = module.forward({all.begin(), named}, by_keyword);
      ending = ".out";
      const auto pickled = torch::jit::pickle_save(c10::ivalue::Tuple::create({value, left}));
      text.assign(pickled.begin(), pickled.end());
    } catch (const c10::Error& error) {
      text = error.what_without_backtrace();
    } catch (const std::exception& error) {
      text = error.what();
    }
    std::ofstream(name + ending, std::ios::binary) << text;
    send(0, "\n", 1, 0);
  }
}

// Serves a TorchScript file, or a package of AOTInductor, without Python. sandbox/cpp.py compiles it and talks to it.
//
//   serve FILE < socket
//
// It reads calls, "ANEW GRADIENTS SEED NAME COUNT KEYWORD...": ANEW is 1 to load the file first,
// GRADIENTS is 1 to record gradients. NAME.in holds the arguments, a pickled tuple; the last COUNT
// of them have keywords; those of a package are its tensors in order. It writes one file:
//
//   NAME.out       what the call returned, the tensors of the arguments as it left them, and of a
//                  package the structure of what it returned, pickled as a tuple; the text of an
//                  exception if they cannot be pickled
//   NAME.raised    the class of an exception, of loading or of the call, and its text in the next lines
//
// Then it sends one byte through the socket, because what the file prints goes to stdout.
#include <sys/socket.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

int main(int, char** argv) {
  std::cout << std::unitbuf;  // what it prints is to outlive a crash
  const bool compiled = std::string(argv[1]).ends_with(".pt2");
  torch::jit::Module module;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
  bool anew, gradients;
  uint64_t seed;
  size_t count;
  std::string name;
  while (std::cin >> anew >> gradients >> seed >> name >> count) {
    std::vector<std::string> keywords(count);
    for (auto& keyword : keywords) std::cin >> keyword;
    std::string ending = ".raised", text;
    try {
      if (anew && compiled)
        package = std::make_unique<torch::inductor::AOTIModelPackageLoader>(argv[1]);
      else if (anew)
        module = torch::jit::load(argv[1], at::kCPU);
      std::ifstream file(name + ".in", std::ios::binary);
      const std::vector<char> given{std::istreambuf_iterator<char>(file), {}};
      const auto all = torch::jit::pickle_load(given).toTuple()->elements().vec();
      c10::List<at::Tensor> left;  // those that it is given: the file may replace them in a dict
      for (const auto& argument : all)
        argument.visit([&](const c10::IValue& part) {
          if (part.isTensor()) left.push_back(part.toTensor());
          return false;
        });
      at::AutoGradMode mode(gradients);
      at::manual_seed(seed);
      c10::IValue value, structure;
      if (compiled) {
        value = package->run(left.vec());
        structure = package->get_call_spec()[1];
      } else {
        const auto named = all.end() - count;
        torch::jit::Kwargs by_keyword;
        for (size_t at = 0; at < count; ++at) by_keyword[keywords[at]] = named[at];
        value = module.forward({all.begin(), named}, by_keyword);
      }
      ending = ".out";
      const auto all_of_it = c10::ivalue::Tuple::create({value, left, structure});
      const auto pickled = torch::jit::pickle_save(all_of_it);
      text.assign(pickled.begin(), pickled.end());
    } catch (const c10::Error& error) {
      text = std::string("RuntimeError\n") + error.what_without_backtrace();
    } catch (const std::exception& error) {
      text = std::string("RuntimeError\n") + error.what();
    }
    std::ofstream(name + ending, std::ios::binary) << text;
    send(0, "\n", 1, 0);
  }
}

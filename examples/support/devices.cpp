// Finds the code of a model, and loads its weights: see devices.hpp.
#include "devices.hpp"

#include <dm2/run/models.hpp>
#include <dm2/run/network_file.hpp>

#include "stop_signal.hpp"
#include "text.hpp"

#include <iostream>
#include <string>

namespace dm2::example {

run::model_code const& find_model_code(std::string const& program, config const& c, chosen_device const& device) {
  run::find_options o;
  if (device.gpu) {
    o.architecture = gpu_architecture();
    o.compiled_in = gpu_has_code();
  }
  o.say = [&program](std::string const& line) { std::cerr << program << ": " << printable(line) << std::endl; };
  o.stop = &stop_requested;
  return run::find_code(c, device.backend(), o);
}

loaded_classifier load_classifier(run::model_code const& code, tensor_file const& file, chosen_device const& device,
                                  int batch, bool patches) {
  loaded_classifier out{code.make_network(batch, device.threads), {}};
  (void)run::load(*out.net, file);
  out.pictures = out.net->make_classifier(batch, patches);
  return out;
}

}  // namespace dm2::example

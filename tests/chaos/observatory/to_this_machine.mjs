// Lead the Observatory's connections to ports 80 and 443 to those of this machine that PORTS names, {"80": …, "443": …}.
import net from "node:net";

const ports = JSON.parse(process.env.PORTS);
const { connect } = net.Socket.prototype;

net.Socket.prototype.connect = function (...args) {
  const options = args.flat().find((argument) => argument && typeof argument === "object" && "port" in argument);
  if (!options || !(options.port in ports)) throw new Error("The Observatory asks for more than this machine.");
  options.port = ports[options.port];
  options.host = "127.0.0.1";
  return connect.apply(this, args);
};

import { render } from "preact";
import { App } from "./app";
import { start } from "./live";

const root = document.getElementById("app");
if (root !== null) {
  render(<App />, root);
  void start();
}

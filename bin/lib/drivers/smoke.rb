# ruby-pg, what ActiveRecord speaks through: its settings at the start, prepared statements, a transaction, COPY, TLS.
require "pg"

[{ sslmode: "disable" }, { sslmode: "verify-full", sslrootcert: ENV.fetch("CA") }].each do |tls|
  db = PG.connect("#{ENV.fetch('DATABASE_URL')}?#{tls.map { |key, value| "#{key}=#{value}" }.join('&')}")
  db.exec("set client_min_messages to 'warning'")
  db.exec("set standard_conforming_strings = on")
  db.exec("set intervalstyle = iso_8601")
  db.exec("set session timezone to 'UTC'")
  db.prepare("a1", "select $1::int + 1")
  12.times { |number| raise "sum" unless db.exec_prepared("a1", [number]).getvalue(0, 0) == (number + 1).to_s }
  db.transaction do |inner|
    inner.exec("create temp table ruby_t (id int) on commit drop")
    inner.copy_data("copy ruby_t from stdin") { 100.times { |number| inner.put_copy_data("#{number}\n") } }
    raise "copy" unless inner.exec("select count(*) from ruby_t").getvalue(0, 0) == "100"
  end
  begin
    db.exec("select 1/0")
    raise "no error"
  rescue PG::DivisionByZero
    nil
  end
  raise "settings" unless db.exec("show intervalstyle").getvalue(0, 0) == "iso_8601"
  db.exec("deallocate a1")
  db.close
end
